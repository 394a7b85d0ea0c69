//! What becomes of a central whose disk has refused: it carries on while there is something to carry.
//!
//! A disk that failed once is not trusted again before a restart, so nothing is admitted or changed any
//! more. An admitted tunnel needs no record and goes on; without one there is nothing left to lose, and
//! central leaves, so that whoever restarts it brings it back as soon as the disk has room.

use std::time::Duration;

use durable::Durable;
use tokio::sync::watch;

/// How often the tunnels are looked at once the disk has refused.
const LOOK: Duration = Duration::from_millis(250);

/// Returns once `disk` has refused and none of `tunnels` is up (any more). Cancel-safe.
pub async fn until_useless<T>(disk: &Durable, tunnels: Vec<watch::Receiver<Option<T>>>) {
    let mut failed = disk.failed();
    let refused = failed.wait_for(Option::is_some).await.map(|refused| refused.clone());
    let Ok(Some(why)) = refused else {
        // The database is closed, which means that central is being stopped.
        return std::future::pending().await;
    };
    tracing::error!(
        %why,
        path = %disk.path().display(),
        "Central's records could not be kept: tunnels that are up carry on, nothing else is admitted or \
         changed. Check that disk's space and health, then restart central: nothing acknowledged is lost"
    );
    while tunnels.iter().any(|tunnel| tunnel.borrow().is_some()) {
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use durable::Guard;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const A_WHILE: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn central_stays_while_any_tunnel_is_up_and_leaves_with_the_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Durable::open(folder.path().join("db")).unwrap();
        let (first, second) = (watch::Sender::new(Some(())), watch::Sender::new(Some(())));
        let mut watching = std::pin::pin!(until_useless(&disk, vec![first.subscribe(), second.subscribe()]));

        first.send_replace(None);
        second.send_replace(None);
        assert!(timeout(A_WHILE, &mut watching).await.is_err(), "left although its disk is well");
        second.send_replace(Some(()));
        refuse(&disk, &folder);
        assert!(timeout(A_WHILE, &mut watching).await.is_err(), "left a tunnel that was up");
        second.send_replace(None);
        assert!(timeout(SOON, watching).await.is_ok(), "stayed without a use");
    }

    /// A value that fits no guard slot stands for a disk that refuses.
    fn refuse(disk: &Durable, folder: &tempfile::TempDir) {
        let broken = Arc::new(Guard::<String>::open(folder.path().join("broken")).unwrap().0);
        disk.sync_guarded(&broken, "x".repeat(10_000), drop);
    }
}
