//! What is kept of this agent's own alerts: `DATA_DIR/alerts.state`, one small file, replaced whole.
//!
//! The outage that was told and the deliveries that tell it stand in one file, so a crash keeps both or neither. It
//! is written a few times an outage; nothing of the gateway waits for it.

use std::{io, path::PathBuf};

use alerting::{Alert, Delivery, Incident, alert::Kind, incident::Transition, outbox};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::data_dir::{read_bounded, replace_file};

/// Deliveries that wait; the oldest make room. Outages of 48 hours, of which there are not many.
const OPEN_MAX: usize = 64;
/// Those that are over, kept so that an up finds the down it ends, and to be looked at.
const OVER_MAX: usize = 64;
/// With each delivery's attempts at their longest.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The state of this agent's alerts, on disk whenever a verb has returned.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    page: Page,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Page {
    /// Under which key the next outage is told, by central as well as here. Central gave it.
    key: Option<String>,
    /// The outage that was told and is not over.
    told: Option<Incident>,
    deliveries: Vec<Delivery>,
}

impl Book {
    /// Opens it; one that is missing is empty. One that is damaged is left behind with a warning: what it had to say
    /// is old, and an agent must start.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let page = match read_bounded(&path, FILE_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "What was kept of this agent's alerts is damaged; it begins anew");
                Page::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Page::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, page })
    }

    pub(super) fn told(&self) -> Option<&Incident> {
        self.page.told.as_ref()
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.page.key.as_deref()
    }

    pub(super) fn deliveries(&self) -> &[Delivery] {
        &self.page.deliveries
    }

    /// Keeps the key of the next outage.
    pub(super) fn set_key(&mut self, key: &str) -> io::Result<()> {
        if self.page.key.as_deref() == Some(key) {
            return Ok(());
        }
        self.change(|page| page.key = Some(key.to_owned()))
    }

    /// Writes down what is to be told of `transition`, and that it was.
    pub(super) fn tell<'a>(
        &mut self,
        transition: Transition,
        recipients: impl IntoIterator<Item = outbox::Recipient<'a>>,
        now: OffsetDateTime,
    ) -> io::Result<()> {
        let told = match &transition {
            Transition::Down(incident) => Some(incident.clone()),
            Transition::Up(_) => None,
        };
        let alert = Alert::of(transition, now);
        let known = |id: &_| self.page.deliveries.iter().any(|delivery| delivery.id == *id);
        let planned = outbox::plan(&alert, recipients, known, now);
        self.change(|page| {
            page.told = told;
            page.deliveries.extend(planned);
            page.clear(now);
        })
    }

    /// Puts `next` in the place of the delivery with its id.
    pub(super) fn replace(&mut self, next: Delivery) -> io::Result<()> {
        self.change(|page| {
            if let Some(delivery) = page.deliveries.iter_mut().find(|delivery| delivery.id == next.id) {
                *delivery = next;
            }
        })
    }

    /// Puts back what the last run of this agent had in hand.
    pub(super) fn release(&mut self, now: OffsetDateTime) -> io::Result<()> {
        self.change(|page| {
            for delivery in &mut page.deliveries {
                *delivery = delivery.release(now);
            }
        })
    }

    /// On disk first: what could not be kept has not happened.
    fn change(&mut self, change: impl FnOnce(&mut Page)) -> io::Result<()> {
        let mut next = self.page.clone();
        change(&mut next);
        replace_file(&self.path, &serde_json::to_vec(&next)?)?;
        self.page = next;
        Ok(())
    }
}

impl Page {
    fn clear(&mut self, now: OffsetDateTime) {
        let surplus = |deliveries: &[Delivery], open: bool, max: usize| {
            deliveries.iter().filter(|delivery| delivery.is_open() == open).count().saturating_sub(max)
        };
        let mut give_up = surplus(&self.deliveries, true, OPEN_MAX);
        for delivery in self.deliveries.iter_mut().filter(|delivery| delivery.is_open()) {
            if give_up > 0 {
                give_up -= 1;
                *delivery = delivery.give_up("too many alerts wait; the oldest are given up", now);
            }
        }
        let mut forget = surplus(&self.deliveries, false, OVER_MAX);
        let told = self.told.as_ref().map(|incident| &incident.id);
        self.deliveries.retain(|delivery| {
            // The down of an outage that lasts is what its up will look for.
            let needed = delivery.alert.kind == Kind::Down && Some(&delivery.alert.incident.id) == told;
            let forgotten = forget > 0 && !delivery.is_open() && !needed;
            forget -= usize::from(forgotten);
            !forgotten
        });
    }
}

#[cfg(test)]
mod tests {
    use alerting::{Context, IncidentId};

    use super::*;
    use crate::alerts::settings::tests::written;

    #[test]
    fn what_was_told_is_known_after_a_restart_and_its_end_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.state");
        let settings = written(r#"{"endpoints":[{"name":"a","url":"http://127.0.0.1:1/"}]}"#).unwrap();
        let mut book = Book::open(path.clone()).unwrap();
        book.set_key("key-1").unwrap();
        book.tell(Transition::Down(incident("i")), settings.alerts.recipients(), at(0)).unwrap();

        let mut again = Book::open(path).unwrap();
        assert_eq!(again.key(), Some("key-1"));
        let told = again.told().cloned().unwrap();
        again.tell(Transition::Up(told), settings.alerts.recipients(), at(9)).unwrap();
        let kinds: Vec<_> = again.deliveries().iter().map(|delivery| delivery.alert.kind).collect();
        assert_eq!(kinds, [Kind::Down, Kind::Up]);
        assert!(again.told().is_none());
    }

    #[test]
    fn neither_what_waits_nor_what_is_over_grows_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = Book::open(folder.path().join("alerts.state")).unwrap();
        let settings = written(r#"{"endpoints":[{"name":"a","url":"http://127.0.0.1:1/"}]}"#).unwrap();
        for n in 0..200 {
            let down = Transition::Down(incident(&n.to_string()));
            book.tell(down, settings.alerts.recipients(), at(n)).unwrap();
        }
        let (open, over): (Vec<_>, Vec<_>) = book.deliveries().iter().partition(|d| d.is_open());
        assert_eq!((open.len(), over.len()), (OPEN_MAX, OVER_MAX));
        assert_eq!(open.last().map(|delivery| delivery.alert.incident.id.as_str()), Some("199"));
    }

    #[test]
    fn a_damaged_file_does_not_keep_an_agent_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.state");
        std::fs::write(&path, "{").unwrap();
        assert!(Book::open(path).unwrap().deliveries().is_empty());
    }

    fn incident(id: &str) -> Incident {
        Incident::new(IncidentId::new(id), at(0), Context::default())
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
    }
}
