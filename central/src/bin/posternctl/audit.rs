//! `posternctl audit`: who did what, and whether the log is whole.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Seek, Write},
    path::Path,
    time::Duration,
};

use central::audit::{Anchor, Broken, Chain, first_line, head_line, verify_export};
use proto::EnvironmentName;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    args::Audit,
    client::{Client, read},
    failure::Failure,
    screen::{Screen, or_dash, plain},
};

/// How often a follower asks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Records in one answer.
const PAGE: usize = 1000;
/// How often the log may make room under the feet of a reader before he gives up.
const ATTEMPTS_MAX: usize = 3;

/// A record, as far as a line shows it.
#[derive(Deserialize)]
struct Shown {
    seq: u64,
    at: String,
    who: Value,
    from: Option<String>,
    action: String,
    target: Option<String>,
    outcome: String,
    code: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Deserialize)]
struct Head {
    seq: u64,
    hash: String,
    anchor: Anchor,
}

#[derive(Deserialize)]
struct Session {
    environment: EnvironmentName,
}

/// Checks an exported file; asks nobody.
pub(crate) fn verify_file(file: &Path, options: &Audit, screen: &mut Screen) -> Result<(), Failure> {
    let opened = File::open(file)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", file.display())))?;
    match verify_export(BufReader::new(opened), options.head.clone()) {
        Ok(head) => whole(&head, screen),
        Err(error) => Err(Failure::Failed(format!("{}: {}", file.display(), program::explain(&error)))),
    }
}

pub(crate) async fn run(options: Audit, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    if options.verify.is_some() {
        let head = collect(client, &options, None).await?;
        return whole(&head, screen);
    }
    if let Some(file) = &options.export {
        return export(file, client, &options, screen).await;
    }
    follow(options, client, screen).await
}

fn whole(head: &Anchor, screen: &mut Screen) -> Result<(), Failure> {
    screen.line(&format!("{}:{}", head.seq, head.hash))?;
    screen.talk(
        "The log is whole. This is its head: keep it elsewhere and give it as --head next time, so that nobody can cut off the end.",
    );
    Ok(())
}

/// Every record of the server's log, checked on the way, into a file if there is one; returns the log's head.
async fn collect(client: &Client, options: &Audit, mut file: Option<&mut File>) -> Result<Anchor, Failure> {
    for attempt in 1.. {
        let said: Head = read(&client.get("audit/head").await?)?;
        let newest = Anchor { seq: said.seq, hash: said.hash };
        let mut chain = Chain::behind(said.anchor.clone()).through(newest).map_err(failed)?;
        if let Some(kept) = &options.head {
            chain = chain.through(kept.clone()).map_err(failed)?;
        }
        let mut into = match file.as_deref_mut() {
            Some(file) => {
                // From the beginning, if an earlier attempt got somewhere.
                file.set_len(0)?;
                file.rewind()?;
                let session: Session = read(&client.get("session").await?)?;
                let mut into = BufWriter::new(file);
                writeln!(into, "{}", first_line(&session.environment, &said.anchor))?;
                Some(into)
            }
            None => None,
        };
        match records(client, &mut chain, &mut into).await {
            // The log made room between our two questions.
            Err(Stopped::Broken(broken)) if chain.is_beginning(&broken) && attempt < ATTEMPTS_MAX => continue,
            Err(Stopped::Broken(broken)) => return Err(failed(broken)),
            Err(Stopped::Failure(failure)) => return Err(failure),
            Ok(()) => {}
        }
        let head = chain.end().map_err(failed)?;
        if let Some(mut into) = into {
            writeln!(into, "{}", head_line(&head))?;
            into.flush()?;
        }
        return Ok(head);
    }
    Err(Failure::Failed("the log's beginning changes all the time: try again".into()))
}

/// Why reading ended early.
enum Stopped {
    Broken(Broken),
    Failure(Failure),
}

async fn records(
    client: &Client,
    chain: &mut Chain,
    into: &mut Option<BufWriter<&mut File>>,
) -> Result<(), Stopped> {
    loop {
        let after = chain.head().seq;
        let page =
            client.get(&format!("audit?after={after}&limit={PAGE}")).await.map_err(Stopped::Failure)?;
        let records = page.as_array().map(Vec::as_slice).unwrap_or_default();
        for record in records {
            chain.take(record).map_err(Stopped::Broken)?;
            if let Some(into) = into {
                writeln!(into, "{record}").map_err(|error| Stopped::Failure(error.into()))?;
            }
        }
        if records.len() < PAGE {
            return Ok(());
        }
    }
}

async fn export(path: &Path, client: &Client, options: &Audit, screen: &mut Screen) -> Result<(), Failure> {
    let created = File::options().write(true).create_new(true).open(path);
    let mut file = created.map_err(|error| {
        Failure::Usage(format!("cannot create {}: {error}; give --export a new file", path.display()))
    })?;
    let head = collect(client, options, Some(&mut file)).await?;
    file.sync_all()?;
    whole(&head, screen)
}

async fn follow(options: Audit, client: &Client, screen: &mut Screen) -> Result<(), Failure> {
    let mut after = options.after;
    loop {
        let after_part = after.map(|after| format!("&after={after}")).unwrap_or_default();
        let answer = client.get(&format!("audit?limit={}{after_part}", options.limit)).await?;
        if screen.is_json() && !options.follow {
            return Ok(screen.json(&answer)?);
        }
        let shown: Vec<Shown> = read(&answer)?;
        let values = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        for (record, value) in shown.iter().zip(values) {
            match screen.is_json() {
                true => screen.json_line(value)?,
                false => screen.line(&line(record))?,
            }
            after = Some(record.seq);
        }
        if !options.follow {
            if shown.is_empty() {
                screen.talk("Nothing was done yet.");
            }
            return Ok(());
        }
        after = after.or(Some(0));
        if shown.len() < options.limit as usize {
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }
}

/// One line a record: when, who, what, to what, with what outcome.
fn line(record: &Shown) -> String {
    let text = |field: &str| record.who.get(field).and_then(Value::as_str);
    let kind = text("kind").unwrap_or("nobody");
    let who = match (kind, text("name").or_else(|| text("id"))) {
        ("user", Some(name)) => name.to_owned(),
        (kind, Some(name)) => format!("{kind} {name}"),
        (kind, None) => kind.to_owned(),
    };
    let outcome = match &record.code {
        Some(code) => format!("{} ({code})", record.outcome),
        None => record.outcome.clone(),
    };
    let change = match (&record.before, &record.after) {
        (None, None) => String::new(),
        (Some(before), None) => format!("  was {before}"),
        (None, Some(after)) => format!("  {after}"),
        (Some(before), Some(after)) => format!("  {before} -> {after}"),
    };
    let Shown { seq, at, action, from, target, .. } = record;
    let (from, target) = (or_dash(from.as_ref()), or_dash(target.as_ref()));
    plain(&format!("{seq:>6}  {at}  {who} from {from}  {action} {target}  {outcome}{change}"))
        .replace('\n', " ")
}

fn failed(broken: Broken) -> Failure {
    Failure::Failed(format!("the log does not hold together: {broken}"))
}
