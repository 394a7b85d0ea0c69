//! The door itself: a socket file on unix; on Windows a loopback port whose number and password
//! stand in a file of the same name. Either way the file system decides who may ask.

/// A snapshot fits a hundred times over.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;

#[cfg(windows)]
pub(super) use self::loopback::{Asker, Listener, ask};
#[cfg(unix)]
pub(super) use self::socket_file::{Asker, Listener, ask};

#[cfg(unix)]
mod socket_file {
    use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

    use tokio::{
        io::AsyncReadExt,
        net::{UnixListener, UnixStream},
    };

    use super::ANSWER_BYTES_MAX;

    pub(in super::super) struct Listener(UnixListener);

    /// Somebody at the door; the file's permissions have let it in.
    pub(in super::super) struct Asker(UnixStream);

    impl Listener {
        /// Replaces a socket that an earlier run left: the data directory's lock says it is nobody's.
        pub(in super::super) fn open(path: &Path) -> io::Result<Self> {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(Self(listener))
        }

        pub(in super::super) async fn accept(&self) -> io::Result<Asker> {
            self.0.accept().await.map(|(stream, _)| Asker(stream))
        }
    }

    impl Asker {
        pub(in super::super) async fn admitted(self) -> io::Result<UnixStream> {
            Ok(self.0)
        }
    }

    /// Reads the whole answer.
    pub(in super::super) async fn ask(path: &Path) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        UnixStream::connect(path).await?.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

#[cfg(any(windows, test))]
mod loopback {
    use std::{io, net::Ipv4Addr, path::Path};

    use serde::{Deserialize, Serialize};
    use sha2::{Digest, Sha256};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::ANSWER_BYTES_MAX;
    use crate::data_dir::{read_bounded, replace_file};

    const PASSWORD_BYTES: usize = 32;

    /// What the file in the data directory says.
    #[derive(Serialize, Deserialize)]
    struct Door {
        port: u16,
        password: [u8; PASSWORD_BYTES],
    }

    pub(in super::super) struct Listener {
        socket: TcpListener,
        password: [u8; PASSWORD_BYTES],
    }

    /// Somebody on loopback who has yet to show the password.
    pub(in super::super) struct Asker {
        stream: TcpStream,
        password: [u8; PASSWORD_BYTES],
    }

    impl Listener {
        pub(in super::super) fn open(path: &Path) -> io::Result<Self> {
            let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            let socket = TcpListener::from_std(socket)?;
            let door = Door { port: socket.local_addr()?.port(), password: rand::random() };
            replace_file(path, &serde_json::to_vec(&door)?)?;
            Ok(Self { socket, password: door.password })
        }

        pub(in super::super) async fn accept(&self) -> io::Result<Asker> {
            let (stream, _) = self.socket.accept().await?;
            Ok(Asker { stream, password: self.password })
        }
    }

    impl Asker {
        /// Reads the password before anything is told.
        pub(in super::super) async fn admitted(mut self) -> io::Result<TcpStream> {
            let mut shown = [0; PASSWORD_BYTES];
            self.stream.read_exact(&mut shown).await?;
            // Compared as hashes: how far a guess was right does not show in the time it takes.
            if Sha256::digest(shown) == Sha256::digest(self.password) {
                Ok(self.stream)
            } else {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
    }

    pub(in super::super) async fn ask(path: &Path) -> io::Result<Vec<u8>> {
        let door: Door = serde_json::from_slice(&read_bounded(path, 1024)?)?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, door.port)).await?;
        stream.write_all(&door.password).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok(answer)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn on_windows_only_who_can_read_the_file_is_answered() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("agent.sock");
            let listener = Listener::open(&path).unwrap();
            let serving = tokio::spawn(async move {
                let mut admitted = Vec::new();
                for _ in 0..2 {
                    let asker = listener.accept().await.unwrap().admitted().await;
                    admitted.push(asker.is_ok());
                    if let Ok(mut asker) = asker {
                        asker.write_all(b"well").await.unwrap();
                    }
                }
                admitted
            });

            assert_eq!(ask(&path).await.unwrap(), b"well");
            let port = serde_json::from_slice::<Door>(&std::fs::read(&path).unwrap()).unwrap().port;
            let mut guess = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            guess.write_all(&[0; PASSWORD_BYTES]).await.unwrap();

            assert_eq!(serving.await.unwrap(), [true, false]);
        }
    }
}
