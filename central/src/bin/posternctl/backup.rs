//! `posternctl backup`: central's whole state in one sealed file, looked into, and made into a data directory again.
//!
//! The passphrase never leaves this program: central gives its state over TLS to whoever shows its operator's token, and
//! it is sealed here.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, IsTerminal, Write},
    path::Path,
};

use central::backup::{self, ContentError, Counted, Line, OpenError, Opening, Passphrase, Sealing};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{args::Backup, client::Client, failure::Failure, screen::Screen, secret_file};

/// What a backup's first line says.
struct Begun {
    central: String,
    made_at: OffsetDateTime,
}

/// Asks nobody: the file says everything.
pub(crate) fn without_central(command: &Backup, screen: &mut Screen) -> Option<Result<(), Failure>> {
    match command {
        Backup::Create { .. } => None,
        Backup::Verify { file, passphrase_file } => Some(verify(file, passphrase_file, screen)),
        Backup::Restore { file, passphrase_file, data_dir, confirm } => {
            Some(restore(file, passphrase_file, data_dir, confirm.as_deref(), screen))
        }
    }
}

pub(crate) async fn create(
    out: &Path,
    passphrase_file: &Path,
    client: &Client,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let passphrase = read_passphrase(passphrase_file)?;
    if out.exists() {
        let why = format!("{} is there already: give --out a new file", out.display());
        return Err(Failure::Usage(why));
    }
    let mut answer = client.operator("/operator/backup").await?;
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::Failed(format!("the backup {} cannot be written: {error}", out.display()))
    };
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Its owner's alone; it gets its name when it is whole, and is removed otherwise.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| cannot(&error))?;
    let mut sealing =
        Sealing::new(BufWriter::new(file.as_file_mut()), &passphrase).map_err(|error| cannot(&error))?;
    while let Some(chunk) = answer.chunk().await.map_err(|error| client.no_answer(&error))? {
        sealing.write_all(&chunk).map_err(|error| cannot(&error))?;
    }
    let mut written = sealing.finish().map_err(|error| cannot(&error))?;
    written.flush().map_err(|error| cannot(&error))?;
    drop(written);
    file.as_file().sync_all().map_err(|error| cannot(&error))?;
    // What cannot be read back is no backup; an answer that broke off shows here too.
    let (begun, counted) = look(file.path(), &passphrase)?;
    file.persist_noclobber(out).map_err(|error| cannot(&error.error))?;
    tell(&begun, &counted, screen)?;
    screen.talk(&format!(
        "{} holds everything, the CA's key too: keep it, and its passphrase elsewhere.",
        out.display()
    ));
    Ok(())
}

fn verify(file: &Path, passphrase_file: &Path, screen: &mut Screen) -> Result<(), Failure> {
    let (begun, counted) = look(file, &read_passphrase(passphrase_file)?)?;
    tell(&begun, &counted, screen)
}

fn restore(
    file: &Path,
    passphrase_file: &Path,
    data_dir: &Path,
    confirm: Option<&Path>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let passphrase = read_passphrase(passphrase_file)?;
    let (begun, counted) = look(file, &passphrase)?;
    tell(&begun, &counted, screen)?;
    confirmed(data_dir, confirm)?;
    let restored = backup::restore(open(file, &passphrase)?, data_dir, OffsetDateTime::now_utc())
        .map_err(|error| Failure::Failed(program::explain(&error)))?;
    screen.talk(&format!(
        "{} is restored. Every epoch from now on is above {}: agents come back by themselves, and the first candidate founds \
         the gateway group anew. Never start the central again that this backup was taken of.",
        data_dir.display(),
        restored.floor
    ));
    Ok(())
}

/// Whoever restores says where, twice.
fn confirmed(data_dir: &Path, confirm: Option<&Path>) -> Result<(), Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "nothing was restored: to confirm, type the data directory again, {} (or give it as --confirm)",
            data_dir.display()
        ))
    };
    let typed = match confirm {
        Some(typed) => typed.to_owned(),
        None if std::io::stdin().is_terminal() => {
            eprint!("Type the data directory again to restore into it: ");
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map_err(|_| wrong())?;
            line.trim().into()
        }
        None => return Err(wrong()),
    };
    if typed == data_dir { Ok(()) } else { Err(wrong()) }
}

/// Reads all of it and keeps none.
fn look(file: &Path, passphrase: &Passphrase) -> Result<(Begun, Counted), Failure> {
    let mut begun = None;
    let counted = backup::verify::<ContentError>(open(file, passphrase)?, |line| {
        if let Line::Begin { central, made_at, .. } = line {
            begun = Some(Begun { central, made_at });
        }
        Ok(())
    });
    let counted = counted.map_err(|error| {
        Failure::Failed(format!("{} is not whole: {}", file.display(), program::explain(&error)))
    })?;
    begun.map(|begun| (begun, counted)).ok_or_else(|| Failure::Failed(format!("{} is empty", file.display())))
}

fn open(file: &Path, passphrase: &Passphrase) -> Result<impl BufRead, Failure> {
    let opened = File::open(file)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", file.display())))?;
    match Opening::new(BufReader::new(opened), passphrase) {
        Ok(opening) => Ok(BufReader::new(opening)),
        Err(error @ OpenError::Io(_)) => {
            Err(Failure::Usage(format!("cannot read {}: {error}", file.display())))
        }
        Err(error) => Err(Failure::Failed(format!("{}: {error}", file.display()))),
    }
}

fn read_passphrase(file: &Path) -> Result<Passphrase, Failure> {
    let text = secret_file::read_secret(file, "passphrase")?;
    Passphrase::new(&text).ok_or_else(|| Failure::Usage(Passphrase::wanted()))
}

fn tell(begun: &Begun, counted: &Counted, screen: &mut Screen) -> Result<(), Failure> {
    let made_at = begun.made_at.format(&Rfc3339).unwrap_or_default();
    if screen.is_json() {
        let Counted { files, records, sha256 } = counted;
        screen.json(&json!({
            "made_at": made_at, "central": begun.central, "files": files, "records": records, "sha256": sha256,
        }))?;
    } else {
        screen.properties(&[
            ("Made at", made_at),
            ("By central", begun.central.clone()),
            ("Records", counted.records.to_string()),
            ("Files", counted.files.to_string()),
            ("SHA-256 of its content", counted.sha256.clone()),
        ])?;
    }
    Ok(())
}
