//! The site has the last word: whatever central asks for, only allowed addresses are dialled.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;

use super::*;

/// What an attacker in central may try against a site that allows one name, one network and one address.
const SITE: &str = r#"
[[allow]]
host = "db.corp.example"
ports = 5432

[[allow]]
host = "10.0.8.0/24"
ports = ["8000-8099", 8443]

[[allow]]
host = "pinned.corp.example"
ports = "*"
resolves_to = ["10.0.16.0/20"]

[[allow]]
host = "0.0.0.0/0"
ports = 9999

[[allow]]
host = "::/0"
ports = 9999
"#;

#[tokio::test]
async fn no_trick_of_spelling_resolving_or_embedding_reaches_what_is_not_allowed() {
    let tricks = [
        // other spellings of loopback and of an allowed network's neighbours
        ("127.1", 9999),
        ("127.0.1", 9999),
        ("0x7f000001", 9999),
        ("0x7f.0.0.1", 9999),
        ("0x7F.0x0.0x0.0x1", 9999),
        ("2130706433", 9999),
        ("017700000001", 9999),
        ("0177.0.0.1", 9999),
        ("127.0.0.01", 9999),
        ("127.0.0.1.", 9999),
        ("0", 9999),
        ("0.0.0.0", 9999),
        ("00.00.00.00", 9999),
        ("127.0.0.1", 9999),
        ("127.255.255.254", 9999),
        ("10.0.8.1:8443", 8443),
        ("10.0.8.256", 8443),
        ("10.0.8", 8443),
        ("10.0.2049", 8443),
        ("167774209", 8443),
        // IPv4 inside IPv6, in every way it has been done
        ("::ffff:127.0.0.1", 9999),
        ("::ffff:7f00:1", 9999),
        ("::FFFF:127.0.0.1", 9999),
        ("0:0:0:0:0:ffff:127.0.0.1", 9999),
        ("::127.0.0.1", 9999),
        ("::7f00:1", 9999),
        ("::ffff:0:127.0.0.1", 9999),
        ("64:ff9b::127.0.0.1", 9999),
        ("64:ff9b::7f00:1", 9999),
        ("64:ff9b:1::7f00:1", 9999),
        ("2002:7f00:1::", 9999),
        ("2001:0:7f00:1::", 9999),
        ("2001::7f00:1", 9999),
        // special addresses that a whole-Internet entry does not mean
        ("::1", 9999),
        ("::", 9999),
        ("0:0:0:0:0:0:0:1", 9999),
        ("[::1]", 9999),
        ("fe80::1", 9999),
        ("fe80::1%eth0", 9999),
        ("fe80::1%1", 9999),
        ("::1%lo", 9999),
        ("fec0::1", 9999),
        ("ff02::1", 9999),
        ("169.254.169.254", 9999),
        ("::ffff:169.254.169.254", 9999),
        ("fd00:ec2::254", 9999),
        ("100.100.100.200", 9999),
        ("168.63.129.16", 9999),
        ("192.0.0.192", 9999),
        ("224.0.0.1", 9999),
        ("255.255.255.255", 9999),
        ("240.0.0.1", 9999),
        // names dressed up as the allowed one
        ("db.corp.example.", 5433),
        ("db.corp.example..", 5432),
        (".db.corp.example", 5432),
        ("db..corp.example", 5432),
        ("xdb.corp.example", 5432),
        ("db.corp.example.evil.example", 5432),
        ("db.corp.example:5432", 5432),
        ("db.corp.example:5432@evil.example", 5432),
        ("evil.example@db.corp.example", 5432),
        ("db.corp.example/evil", 5432),
        ("db.corp.example#evil", 5432),
        ("db.corp.example\0", 5432),
        ("db.corp.example\0.evil.example", 5432),
        ("db.corp.example ", 5432),
        (" db.corp.example", 5432),
        ("db.corp.example\n", 5432),
        ("db.corp.example%2eevil", 5432),
        ("db\u{3002}corp\u{3002}example", 5432),
        ("\u{501}b.corp.example", 5432),
        ("ｄｂ.corp.example", 5432),
        ("xn--db-.corp.example", 5432),
        ("*.corp.example", 5432),
        ("corp.example", 5432),
        ("localhost", 9999),
        ("localhost.", 9999),
        ("LOCALHOST", 9999),
        ("ip6-localhost", 9999),
        ("", 5432),
        (".", 5432),
        // the right place at the wrong port
        ("db.corp.example", 5433),
        ("db.corp.example", 0),
        ("10.0.8.1", 8100),
        ("10.0.8.1", 7999),
        ("10.0.9.1", 8443),
        ("10.0.7.255", 8443),
        // names whose DNS lies
        ("rebound.example", 9999),
        ("mapped.example", 9999),
        ("nat64.example", 9999),
        ("pinned.corp.example", 443),
    ];
    assert!(tricks.len() >= 60);
    // Whoever controls DNS answers with the worst there is.
    let lies = |name: &str| -> Vec<IpAddr> {
        match name {
            "pinned.corp.example" => vec![ip("10.0.32.1"), ip("127.0.0.1")],
            "mapped.example" => vec![ip("::ffff:127.0.0.1"), ip("::ffff:169.254.169.254")],
            "nat64.example" => vec![ip("64:ff9b::7f00:1"), ip("2002:7f00:1::")],
            _ => vec![ip("127.0.0.1"), ip("::1"), ip("169.254.169.254"), ip("fe80::1"), ip("0.0.0.0")],
        }
    };
    for (host, port) in tricks {
        let site = Site::of(SITE, lies);
        let refused = site.dial(host, port).await.unwrap_err();
        assert_eq!(refused.code(), ResetCode::NOT_ALLOWED, "{host:?}:{port} gave {refused:?}");
        assert_eq!(site.dialled(), [], "{host:?}:{port}");
    }
}

#[tokio::test]
async fn allowed_destinations_are_reached_by_name_address_and_network() {
    let dns = |name: &str| match name {
        "db.corp.example" => vec![ip("10.9.9.9")],
        "pinned.corp.example" => vec![ip("10.0.17.1"), ip("10.0.99.1")],
        "any.example" => vec![ip("10.0.8.7")],
        _ => vec![],
    };
    for (host, port, reached) in [
        ("db.corp.example", 5432, "10.9.9.9:5432"),
        ("DB.Corp.Example.", 5432, "10.9.9.9:5432"),
        ("10.0.8.200", 8050, "10.0.8.200:8050"),
        ("::ffff:10.0.8.200", 8443, "10.0.8.200:8443"),
        ("pinned.corp.example", 22, "10.0.17.1:22"),
        ("any.example", 8443, "10.0.8.7:8443"),
        ("203.0.113.9", 9999, "203.0.113.9:9999"),
        ("2001:db8::9", 9999, "[2001:db8::9]:9999"),
    ] {
        let site = Site::of(SITE, dns);
        site.dial(host, port).await.unwrap_or_else(|e| panic!("{host}:{port} was refused: {e:?}"));
        assert_eq!(site.dialled(), [reached.parse().unwrap()], "{host}:{port}");
    }
}

#[tokio::test]
async fn an_empty_list_allows_nothing() {
    let site = Site::of("", |_| vec![ip("10.0.0.1")]);
    for (host, port) in [("10.0.0.1", 80), ("db", 5432), ("127.0.0.1", 80)] {
        assert_eq!(site.dial(host, port).await.unwrap_err().code(), ResetCode::NOT_ALLOWED);
    }
    assert_eq!(site.dialled(), []);
}

#[tokio::test]
async fn a_name_nothing_can_allow_is_not_even_resolved() {
    let site = Site::of("[[allow]]\nhost = \"db\"\nports = 1", |name| panic!("{name} was resolved"));
    assert_eq!(
        site.dial("secret-as-a-name.evil.example", 1).await.unwrap_err().code(),
        ResetCode::NOT_ALLOWED
    );
}

#[tokio::test]
async fn loopback_is_reached_when_the_list_names_it_as_an_address() {
    let list = "[[allow]]\nhost = \"127.0.0.1\"\nports = 80\n\
                [[allow]]\nhost = \"localhost\"\nports = 81\nresolves_to = [\"127.0.0.0/8\"]\n\
                [[allow]]\nhost = \"myself\"\nports = 82";
    let site = Site::of(list, |_| vec![ip("127.0.0.1")]);
    site.dial("127.0.0.1", 80).await.unwrap();
    site.dial("localhost", 81).await.unwrap();
    let refused = site.dial("myself", 82).await.unwrap_err();
    assert!(
        matches!(refused, DialError::NotAllowed { source: CheckError::Special { .. }, .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn of_several_addresses_only_the_allowed_are_dialled() {
    let dns = |_: &str| vec![ip("169.254.169.254"), ip("10.0.8.1"), ip("10.0.9.1"), ip("::1")];
    let site = Site::of("[[allow]]\nhost = \"10.0.8.0/24\"\nports = 80", dns);
    site.dial("mixed.example", 80).await.unwrap();
    assert_eq!(site.dialled(), ["10.0.8.1:80".parse().unwrap()]);
}

#[tokio::test]
async fn a_name_is_resolved_once_so_a_second_answer_changes_nothing() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let site = Site::of("[[allow]]\nhost = \"flip\"\nports = 80", move |_| {
        let mut asked = count.lock().unwrap();
        *asked += 1;
        if *asked == 1 { vec![ip("10.0.0.1")] } else { vec![ip("127.0.0.1")] }
    });
    site.dial("flip", 80).await.unwrap();
    assert_eq!((*asked.lock().unwrap(), site.dialled()), (1, vec!["10.0.0.1:80".parse().unwrap()]));
}

#[tokio::test]
async fn the_agents_own_port_is_closed_to_streams_unless_listed_exactly() {
    let wide = Site::of("[[allow]]\nhost = \"127.0.0.0/8\"\nports = \"*\"", |_| vec![]);
    wide.dialer.protect(7431);
    assert!(wide.dial("127.0.0.1", 7432).await.is_ok());
    let refused = wide.dial("127.0.0.1", 7431).await.unwrap_err();
    assert!(matches!(refused, DialError::NotAllowed { source: CheckError::OwnPort { .. }, .. }));

    let exact = Site::of("[[allow]]\nhost = \"127.0.0.1\"\nports = 7431", |_| vec![]);
    exact.dialer.protect(7431);
    assert!(exact.dial("127.0.0.1", 7431).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_never_answers_is_given_up_at_the_limit() {
    let site = Site::silent("[[allow]]\nhost = \"10.0.0.1\"\nports = 80");
    let start = Instant::now();
    let error = site.dial("10.0.0.1", 80).await.unwrap_err();
    assert_eq!((error.code(), start.elapsed()), (ResetCode::TIMED_OUT, LIMIT));
    assert!(error.to_string().contains("destination orders at 10.0.0.1:80"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_destination_cannot_take_every_place() {
    let list = "[[allow]]\nhost = \"10.0.0.0/24\"\nports = 80";
    let site = Arc::new(Site::silent(list));
    let mut stuck = tokio::task::JoinSet::new();
    for _ in 0..DIALS_MAX * 2 {
        let site = site.clone();
        stuck.spawn(async move { site.dial("10.0.0.1", 80).await.map_err(|e| e.code()) });
    }
    // Two steps of the paused clock: everybody has asked.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(site.dialled().len(), DIALS_PER_DESTINATION_MAX);

    let other = site.dial("10.0.0.2", 80).await.unwrap_err();

    assert_eq!(other.code(), ResetCode::TIMED_OUT, "it was tried, although the other is dead");
    assert!(site.dialled().contains(&"10.0.0.2:80".parse().unwrap()));
}

#[tokio::test]
async fn what_the_network_says_reaches_the_log_once() {
    let site = Site::refusing("[[allow]]\nhost = \"10.0.4.7\"\nports = 1521");
    let error = site.dial("10.0.4.7", 1521).await.unwrap_err();
    assert_eq!(error.code(), ResetCode::UNREACHABLE);
    assert_eq!(
        program::explain(&error),
        "destination orders at 10.0.4.7:1521 could not be reached (tried [10.0.4.7:1521]): connection refused"
    );
}

#[tokio::test]
async fn a_name_without_an_address_is_unreachable() {
    let site = Site::of("[[allow]]\nhost = \"gone\"\nports = 1", |_| vec![]);
    assert!(matches!(site.dial("gone", 1).await, Err(DialError::NoAddress { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Random lists, random wishes, a name server in the attacker's hands: dialled ⊆ allowed.
    #[test]
    fn whatever_is_dialled_was_allowed(
        entries in prop::collection::vec((0u32..8, 0u8..=3, 1u16..4), 0..4),
        wish in 0u32..16,
        by_name: bool,
        answers in prop::collection::vec(any_address(), 0..4),
        port in 0u16..5,
    ) {
        let nets: Vec<_> = entries
            .iter()
            .map(|(low, bits, port)| (low >> bits << bits, 32 - bits, *port))
            .collect();
        let list: String = nets
            .iter()
            .map(|(low, prefix, port)| format!("[[allow]]\nhost = \"10.0.0.{low}/{prefix}\"\nports = {port}\n"))
            .collect();
        let site = Site::of(&list, move |_| answers.clone());
        let host = if by_name { format!("h{wish}.example") } else { format!("10.0.0.{wish}") };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let result = runtime.block_on(site.dial(&host, port));
        // The model: plain arithmetic on the last byte of 10.0.0.x.
        let allowed = |addr: &SocketAddr| match addr.ip() {
            IpAddr::V4(v4) => nets.iter().any(|(low, prefix, port)| {
                let [a, b, c, last] = v4.octets();
                [a, b, c] == [10, 0, 0] && *port == addr.port() && u32::from(last) >> (32 - prefix) == low >> (32 - prefix)
            }),
            IpAddr::V6(_) => false,
        };
        let dialled = site.dialled();
        prop_assert!(dialled.iter().all(allowed), "dialled {dialled:?} under {nets:?}");
        prop_assert_eq!(result.is_ok(), !dialled.is_empty());
    }

    /// Arbitrary text as a host never reaches anything but what it literally names.
    #[test]
    fn no_text_leads_past_an_allow_list_of_one_address(host in "\\PC{0,40}|[0-9a-fx.:%]{1,20}", port: u16) {
        let site = Site::of("[[allow]]\nhost = \"10.0.0.1\"\nports = \"*\"", |_| vec![ip("127.0.0.1"), ip("10.0.0.2")]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _ = runtime.block_on(site.dial(&host, port));
        let reached: BTreeSet<_> = site.dialled().iter().map(SocketAddr::ip).collect();
        prop_assert!(reached.is_subset(&BTreeSet::from([ip("10.0.0.1")])), "{host:?} led to {reached:?}");
    }
}

const LIMIT: Duration = Duration::from_secs(10);

/// A site with its list, a name server under test, and a network that only takes notes.
struct Site {
    dialer: Dialer<Names, Network>,
}

impl Site {
    fn of(list: &str, names: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Self {
        Self::build(list, Names(Box::new(names)), Answer::Accepts)
    }

    fn silent(list: &str) -> Self {
        Self::build(list, Names(Box::new(|_| vec![])), Answer::Silence)
    }

    fn refusing(list: &str) -> Self {
        Self::build(list, Names(Box::new(|_| vec![])), Answer::Refuses)
    }

    fn build(list: &str, names: Names, answer: Answer) -> Self {
        #[derive(serde::Deserialize)]
        struct Written {
            #[serde(default)]
            allow: Vec<allow_list::Entry>,
        }
        let written: Written = toml::from_str(list).unwrap();
        let list = ListFile::fixed(AllowList::new(written.allow), &[]);
        let network = Network { answer, dialled: Arc::default() };
        Self { dialer: Dialer::assemble(list, names, network, LIMIT, DIALS_MAX) }
    }

    async fn dial(&self, host: &str, port: u16) -> Result<(), DialError> {
        let wanted = Wanted { destination: "orders".to_owned(), host: host.to_owned(), port };
        self.dialer.dial_tcp(wanted).await
    }

    fn dialled(&self) -> Vec<SocketAddr> {
        self.dialer.connector.dialled.lock().unwrap().clone()
    }
}

type Answers = dyn Fn(&str) -> Vec<IpAddr> + Send + Sync;

struct Names(Box<Answers>);

impl Resolver for Names {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Ok((self.0)(name))
    }
}

#[derive(Clone, Copy)]
enum Answer {
    Accepts,
    Refuses,
    Silence,
}

#[derive(Clone)]
struct Network {
    answer: Answer,
    dialled: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Connector for Network {
    type Stream = ();

    async fn connect(&self, addr: SocketAddr) -> io::Result<()> {
        self.dialled.lock().unwrap().push(addr);
        match self.answer {
            Answer::Accepts => Ok(()),
            Answer::Refuses => Err(io::ErrorKind::ConnectionRefused.into()),
            Answer::Silence => std::future::pending().await,
        }
    }
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        3 => (0u8..16).prop_map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last))),
        1 => any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))),
        1 => any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))),
        1 => (0u8..16).prop_map(|last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped())),
        1 => Just(IpAddr::from(Ipv4Addr::LOCALHOST)),
    ]
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
