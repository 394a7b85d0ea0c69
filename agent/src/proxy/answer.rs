//! What a proxy says to CONNECT: the header of an HTTP/1.x answer, and what of it is for people.
//!
//! Whoever answers may be anybody: of his words nothing steers a terminal or floods a log.

/// A header fits many times over; pages that explain a refusal come behind it and are not read.
pub(super) const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Lines of a header.
const LINES_MAX: usize = 100;
/// Characters of a status line, and of a scheme, that are repeated.
const STATUS_SHOWN: usize = 120;
const SCHEME_SHOWN: usize = 20;
/// Schemes that are repeated.
const SCHEMES_MAX: usize = 8;

/// A proxy's last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: u16,
    /// Code and reason, fit to be shown.
    pub(super) status: String,
    /// Each scheme that `Proxy-Authenticate`, or its twin of servers, names, fit to be shown.
    pub(super) offers: Vec<String>,
}

/// Why bytes are no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("its answer is no header of HTTP/1.x")]
    NotHttp,
    #[error("the header of its answer is longer than 16 KiB or 100 lines")]
    TooLong,
    #[error("it switches to another protocol, which nobody asked for")]
    Switched,
}

/// The answer at the beginning of `bytes`, behind any interim ones, and where what comes behind it begins. `None`: there
/// is more to come.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Answer, usize)>, Unreadable> {
    let mut at = 0;
    loop {
        let mut lines = [httparse::EMPTY_HEADER; LINES_MAX];
        let mut response = httparse::Response::new(&mut lines);
        let end = match response.parse(&bytes[at..]) {
            Ok(httparse::Status::Complete(length)) => at + length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Unreadable::TooLong),
            Err(_) => return Err(Unreadable::NotHttp),
        };
        match response.code {
            Some(101) => return Err(Unreadable::Switched),
            Some(100..=199) => at = end,
            Some(code @ 200..) => {
                let reason = shown(response.reason.unwrap_or_default().as_bytes(), STATUS_SHOWN);
                let status = format!("{code} {reason}").trim_end().to_owned();
                return Ok(Some((Answer { code, status, offers: offers(response.headers) }, end)));
            }
            Some(_) | None => return Err(Unreadable::NotHttp),
        }
    }
}

/// The first word of each challenge. One line may hold several, divided by commas as their parameters are; a
/// parameter has its "=" in its first word, a scheme does not.
fn offers(lines: &[httparse::Header<'_>]) -> Vec<String> {
    let mut offers = Vec::new();
    let challenges = lines
        .iter()
        .filter(|line| {
            ["proxy-authenticate", "www-authenticate"].iter().any(|name| line.name.eq_ignore_ascii_case(name))
        })
        .flat_map(|line| line.value.split(|byte| *byte == b','));
    for challenge in challenges {
        let scheme = challenge.trim_ascii().split(|byte| *byte == b' ').next().unwrap_or_default();
        let is_word = !scheme.is_empty() && scheme.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        let scheme = shown(scheme, SCHEME_SHOWN);
        if is_word && offers.len() < SCHEMES_MAX && !offers.contains(&scheme) {
            offers.push(scheme);
        }
    }
    offers
}

/// At most so many characters, and none that is not printable ASCII.
pub(super) fn shown(bytes: &[u8], characters: usize) -> String {
    let printable = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '.' };
    bytes.iter().take(characters).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_2xx_ends_at_its_empty_line_and_leaves_what_is_behind() {
        let bytes = b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n\x16\x03\x01";
        let (answer, end) = read(bytes).unwrap().unwrap();
        assert_eq!((answer.code, answer.status.as_str()), (200, "200 Connection established"));
        assert_eq!(&bytes[end..], b"\x16\x03\x01");
    }

    #[test]
    fn interim_answers_are_passed_over_and_a_switch_of_protocols_is_not() {
        let (answer, _) = read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert_eq!(answer.code, 200);
        assert_eq!(read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2").unwrap(), None);
        assert_eq!(read(b"HTTP/1.1 101 Switching\r\n\r\n"), Err(Unreadable::Switched));
    }

    #[test]
    fn what_is_no_http_is_known_by_its_first_bytes() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"HTTP/2 200\r\n",
            b"HTTP/1.1 2",
            b"200 OK",
            b"\x05\x00",
        ] {
            assert_eq!(read(bytes).is_err(), bytes != b"HTTP/1.1 2", "{}", shown(bytes, 32));
        }
        assert_eq!(read(b"HTTP/1.1 007 Bond\r\n\r\n"), Err(Unreadable::NotHttp));
    }

    #[test]
    fn each_scheme_is_named_once_and_no_parameter() {
        let told = |lines: &str| {
            let bytes = format!("HTTP/1.1 407 Proxy Authentication Required\r\n{lines}\r\n");
            read(bytes.as_bytes()).unwrap().unwrap().0.offers
        };
        assert_eq!(told("Proxy-Authenticate: Basic realm=\"a, b\"\r\n"), ["Basic"]);
        assert_eq!(
            told("proxy-authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: NTLM\r\n"),
            ["Negotiate", "NTLM"]
        );
        assert_eq!(
            told("Proxy-Authenticate: Digest realm=\"x\", qop=\"auth\", nonce=\"1\", Basic realm=\"y\"\r\n"),
            ["Digest", "Basic"]
        );
        assert_eq!(told(""), Vec::<String>::new());
    }

    #[test]
    fn of_a_refusal_nothing_steers_a_terminal() {
        let (answer, _) = read(b"HTTP/1.1 403 Go\taway\r\n\r\n").unwrap().unwrap();
        assert_eq!(answer.status, "403 Go.away");
        let long = format!("HTTP/1.1 403 {}\r\n\r\n", "x".repeat(5000));
        assert!(read(long.as_bytes()).unwrap().unwrap().0.status.len() < 130);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_waited_for_and_never_believed_too_far(
            start in prop::sample::select(vec!["", "HTTP/1.1 ", "HTTP/1.1 407 x\r\nProxy-Authenticate: "]),
            rest in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let bytes = [start.as_bytes(), &rest].concat();
            if let Ok(Some((answer, end))) = read(&bytes) {
                prop_assert!(end <= bytes.len());
                prop_assert!(bytes[..end].ends_with(b"\n"));
                prop_assert!((200..1000).contains(&answer.code));
                prop_assert!(answer.status.len() <= STATUS_SHOWN + 4);
                prop_assert!(answer.offers.len() <= SCHEMES_MAX);
                for text in answer.offers.iter().chain([&answer.status]) {
                    prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
                }
            }
        }

        /// Wherever the pieces are cut: the answer is the same, and comes with its last byte and not before.
        #[test]
        fn an_answer_is_whole_with_its_last_byte(
            code in 200_u16..600,
            reason in "[ -~]{0,40}",
            value in "[ -~]{0,60}",
            behind in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let header = format!("HTTP/1.1 {code} {reason}\r\nProxy-Authenticate: Basic\r\nX: {value}\r\n\r\n");
            for cut in 0..header.len() {
                prop_assert_eq!(read(&header.as_bytes()[..cut]), Ok(None));
            }
            let (answer, end) = read(&[header.as_bytes(), &behind].concat()).unwrap().unwrap();
            prop_assert_eq!((answer.code, end), (code, header.len()));
            prop_assert_eq!(answer.offers, ["Basic"]);
        }
    }
}
