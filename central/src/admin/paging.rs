//! Pages of a list: `?limit=N&after=CURSOR`, and a `Link` to the next one where there is more.
//!
//! A cursor names the last item of a page, so that what was added or removed meanwhile moves nothing. Histories are
//! numbered, and begin with their newest where nobody says how far they have read: [`Numbers`].

use axum::{
    Json,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{API, problem::Problem};

/// The most items of one page, and how many it has where nothing is said.
pub(super) const LIMIT_MAX: usize = 1000;

/// What of a list is wanted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    after: Option<String>,
}

/// One page.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// The `Link` to what comes behind it.
    pub(super) next: Option<String>,
}

impl<T> Page<T> {
    /// The same page with every item as it is answered.
    pub(super) fn map<U>(self, show: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(show).collect(), next: self.next }
    }
}

/// What of a numbered history is wanted: `?after=SEQ&limit=N`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Numbers {
    /// Only what has a larger number; without it, the newest.
    #[serde(default)]
    pub(super) after: Option<u64>,
    #[serde(default)]
    limit: Option<usize>,
}

impl Numbers {
    /// Items of a history's page where nothing is said: the newest are what people look for.
    const LIMIT_DEFAULT: usize = 100;

    pub(super) fn limit(&self) -> Result<usize, Problem> {
        bounded(self.limit.unwrap_or(Self::LIMIT_DEFAULT))
    }

    /// The page that was read as asked, oldest first either way, so that the last one's number is the next `after`.
    /// A full one may have been the last: the next is empty then.
    pub(super) fn page<T>(&self, path: &str, items: Vec<T>, number: impl Fn(&T) -> u64) -> Page<T> {
        let limit = self.limit.unwrap_or(Self::LIMIT_DEFAULT);
        let more = self.after.is_some() && items.len() >= limit;
        let last = items.last().filter(|_| more).map(number);
        Page { items, next: last.map(|last| link(path, &last.to_string(), limit)) }
    }
}

/// The cursor of a list in the order of time: the moment, and a name to tell two of the same moment apart.
pub(super) fn at(moment: OffsetDateTime, id: &str) -> String {
    format!("{:020}-{id}", moment.unix_timestamp_nanos())
}

impl Range {
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        bounded(self.limit.unwrap_or(LIMIT_MAX))
    }

    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// The page of `items` behind the cursor, of the list at `path`. They stand in the order of `cursor`, or in the
    /// opposite one.
    pub(super) fn page<T, C>(
        &self,
        path: &str,
        items: Vec<T>,
        order: Order,
        cursor: impl Fn(&T) -> C,
        read: impl Fn(&str) -> Option<C>,
    ) -> Result<Page<T>, Problem>
    where
        C: Ord + ToString,
    {
        let limit = self.limit()?;
        let after = match &self.after {
            None => None,
            Some(text) => {
                Some(read(text).ok_or_else(|| Problem::field("after", "is no cursor of this list"))?)
            }
        };
        let behind = |item: &T| match (&after, order) {
            (None, _) => true,
            (Some(after), Order::Rising) => cursor(item) > *after,
            (Some(after), Order::Falling) => cursor(item) < *after,
        };
        let mut items: Vec<T> = items.into_iter().filter(behind).take(limit + 1).collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more).map(|last| cursor(last).to_string());
        let next = last.map(|last| link(path, &last, limit));
        Ok(Page { items, next })
    }

    /// The same of a list in the order of names, or of [moments](at).
    pub(super) fn by_name<T>(
        &self,
        path: &str,
        items: Vec<T>,
        name: impl Fn(&T) -> String,
    ) -> Result<Page<T>, Problem> {
        self.page(path, items, Order::Rising, name, |text| Some(text.to_owned()))
    }
}

/// How a list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Rising,
    Falling,
}

fn bounded(limit: usize) -> Result<usize, Problem> {
    match (1..=LIMIT_MAX).contains(&limit) {
        true => Ok(limit),
        false => Err(Problem::field("limit", format!("must be 1 to {LIMIT_MAX}"))),
    }
}

/// Cursors are names and numbers; whatever else one holds is escaped.
fn link(path: &str, after: &str, limit: usize) -> String {
    let after: String = after
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("<{API}{path}?after={after}&limit={limit}>; rel=\"next\"")
}

impl<T: Serialize> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.items).into_response();
        if let Some(next) = self.next.and_then(|next| HeaderValue::from_str(&next).ok()) {
            response.headers_mut().insert(header::LINK, next);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_to_end_give_the_list_once() {
        let names: Vec<String> = ["a", "b b", "c", "d", "e"].map(str::to_owned).into();
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let range = Range { limit: Some(2), after };
            let page = range.by_name("/x", names.clone(), Clone::clone).unwrap();
            seen.extend(page.items.clone());
            pages += 1;
            match page.next {
                None => break,
                Some(next) => {
                    assert!(
                        next.starts_with("</api/v1/x?after=") && next.ends_with("&limit=2>; rel=\"next\"")
                    );
                    after = page.items.last().cloned();
                }
            }
        }
        assert_eq!((seen, pages), (names, 3));
    }

    #[test]
    fn a_cursor_whose_item_is_gone_still_leads_on() {
        let range = Range { limit: None, after: Some("b".into()) };
        let names = vec!["a".to_owned(), "c".to_owned()];
        assert_eq!(range.by_name("/x", names, Clone::clone).unwrap().items, ["c"]);
        assert!(link("/x", "b b", 2).contains("after=b%20b&"));
    }

    #[test]
    fn a_list_that_begins_with_the_newest_goes_on_with_older_ones() {
        let range = Range { limit: Some(1), after: Some("3".into()) };
        let page = range.page("/x", vec![4, 3, 2, 1], Order::Falling, |n: &u64| *n, |text| text.parse().ok());
        assert_eq!(page.unwrap().items, [2]);
    }

    #[test]
    fn a_history_begins_with_its_newest_and_is_read_on_by_number() {
        let newest = Numbers { after: None, limit: Some(2) };
        assert!(newest.page("/x", vec![8, 9], |n: &u64| *n).next.is_none());
        let behind = Numbers { after: Some(7), limit: Some(2) };
        let page = behind.page("/x", vec![8, 9], |n: &u64| *n);
        assert_eq!(page.next.unwrap(), "</api/v1/x?after=9&limit=2>; rel=\"next\"");
        assert_eq!(Numbers { after: None, limit: Some(1001) }.limit().unwrap_err().status(), 422);
    }

    #[test]
    fn moments_and_their_cursors_have_the_same_order() {
        let second = |n| OffsetDateTime::from_unix_timestamp(n).unwrap();
        assert!(at(second(9), "b") < at(second(10), "a"));
        assert!(at(second(10), "a") < at(second(10), "b"));
    }

    #[test]
    fn nonsense_is_named() {
        let wrong = |limit, after: Option<&str>| {
            let range = Range { limit, after: after.map(str::to_owned) };
            range
                .page("/x", vec![1_u64], Order::Rising, |n| *n, |text| text.parse().ok())
                .unwrap_err()
                .status()
        };
        assert_eq!(wrong(Some(0), None), 422);
        assert_eq!(wrong(Some(1001), None), 422);
        assert_eq!(wrong(None, Some("moon")), 422);
    }
}
