//! Ways to make a server call itself, its neighbours or its cloud: none may be dialled.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;

/// Addresses as attackers write them. Each is refused when it is read, or before it is dialled.
const TRICKS: &[&str] = &[
    // Loopback, as it is and in the spellings that parsers take for it.
    "https://127.0.0.1/",
    "https://127.0.0.1:443/",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.8.9.10/",
    "https://127.255.255.254/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0x7F.0x0.0x0.0x1/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://0177.0.0.01/",
    "https://127.0.0.1./",
    "https://①②⑦.0.0.1/",
    "https://１２７．０．０．１/",
    "https://127。0。0。1/",
    "https://%31%32%37.0.0.1/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://ｌｏｃａｌｈｏｓｔ/",
    "https://foo.localhost/",
    // This host.
    "https://0/",
    "https://0.0.0.0/",
    "https://0.1.2.3/",
    "https://0x0/",
    // Private networks.
    "https://10.0.0.1/",
    "https://10.1/",
    "https://167772161/",
    "https://0xa.1.2.3/",
    "https://012.1.2.3/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://192.168.257/",
    "https://3232235777/",
    // Metadata, and the clouds' own services.
    "https://169.254.169.254/latest/meta-data/",
    "https://169.254.43518/",
    "https://2852039166/",
    "https://0xa9fea9fe/",
    "https://0251.0376.0251.0376/",
    "https://169.254.170.2/",
    "https://100.100.100.200/",
    "https://168.63.129.16/",
    "https://192.0.0.192/",
    "https://[fd00:ec2::254]/",
    "https://[fd20:ce::254]/",
    "https://metadata.google.internal/",
    // Shared, reserved, documentation, benchmark, multicast, broadcast.
    "https://100.64.0.1/",
    "https://100.127.255.255/",
    "https://192.0.2.1/",
    "https://198.18.0.1/",
    "https://198.51.100.7/",
    "https://203.0.113.9/",
    "https://192.88.99.1/",
    "https://224.0.0.1/",
    "https://239.255.255.250/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    // IPv6, and IPv4 within it.
    "https://[::]/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[0000::0001]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::FFFF:169.254.169.254]/",
    "https://[::ffff:10.0.0.1]/",
    "https://[::ffff:0:127.0.0.1]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::10.0.0.1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:a9fe:a9fe::1]/",
    "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "https://[2001:2::1]/",
    "https://[2001:10::1]/",
    "https://[2001:db8::1]/",
    "https://[3fff::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fe80::1%eth0]/",
    "https://[febf::1]/",
    "https://[fec0::1]/",
    "https://[fc00::1]/",
    "https://[fdff::1]/",
    "https://[ff02::1]/",
    "https://[100::1]/",
    "https://[5f00::1]/",
    "https://[2606:4700::5efe:10.0.0.1]/",
    "https://[2606:4700::200:5efe:10.0.0.1]/",
    // Names that lead inside: at once, at the end of a chain, by turns, or beside a good address.
    "https://inside.test/",
    "https://mapped.test/",
    "https://mixed.test/",
    "https://many.test/",
    "https://nat64.test/",
    "https://empty.test/",
    "https://nowhere.test/",
    // What is called is not what is read.
    "https://public.test@127.0.0.1/",
    "https://public.test:443@127.0.0.1/",
    "https://127.0.0.1:443@public.test/",
    "https://public.test%00.inside.test/",
    "https://public.test%2f@inside.test/",
    "https://public.test\\@inside.test/",
    "https://public.test\t@inside.test/",
    "https://public.test\r\nHost: inside.test/",
    "https://public.test #@inside.test/",
    "https://public.test/#@inside.test/",
    "https:// inside.test/",
    "https://public.test\u{0}/",
    "https:///127.0.0.1/",
    "https:127.0.0.1",
    "https:/127.0.0.1/",
    "//127.0.0.1/",
    "https://public.test:0/",
    "https://public.test:65536/",
    "https://",
    "",
    // Other ways out.
    "http://public.test/",
    "http://93.184.216.34/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:25/_HELO",
    "dict://127.0.0.1:6379/info",
    "ftp://127.0.0.1/",
    "ldap://127.0.0.1/",
    "unix:///var/run/docker.sock",
    "jar:https://public.test!/",
    "data:text/plain,hello",
    "javascript:alert(1)",
];

#[tokio::test]
async fn none_of_the_tricks_gets_an_address_to_dial() {
    assert!(TRICKS.len() >= 60);
    let rules = AddressRules::new(|_| false).with_lookup(names());
    for trick in TRICKS {
        let Ok(url) = read_url(trick, &["https", "http"]) else { continue };
        let answer = rules.resolve(&url, url.scheme() == "https").await;
        assert!(answer.is_err(), "{trick:?} became {url} and would dial {answer:?}");
    }
}

#[tokio::test]
async fn mail_servers_are_judged_alike() {
    let rules = AddressRules::new(|_| false).with_lookup(names());
    for trick in TRICKS {
        for scheme in ["smtp", "smtps"] {
            let mail = trick.replacen("https", scheme, 1).replacen("http", scheme, 1);
            let Ok(url) = read_url(&mail, &["smtp", "smtps"]) else { continue };
            // This scheme keeps what the other reads, so the system's own reading decides: it is judged after it.
            let encrypted = trick.starts_with("https");
            let answer = rules.resolve(&url, encrypted).await;
            assert!(answer.is_err(), "{mail:?} became {url} and would dial {answer:?}");
        }
    }
}

#[tokio::test]
async fn public_receivers_are_called_at_the_judged_addresses() {
    let rules = AddressRules::new(|_| false).with_lookup(names());
    for (url, expected) in [
        ("https://public.test/hook", vec!["93.184.216.34:443", "[2606:4700::1]:443"]),
        ("https://public.test:8443/", vec!["93.184.216.34:8443", "[2606:4700::1]:8443"]),
        ("https://93.184.216.34/", vec!["93.184.216.34:443"]),
        ("https://[2606:4700::1]/", vec!["[2606:4700::1]:443"]),
        ("https://[64:ff9b::93.184.216.34]/", vec!["[64:ff9b::5db8:d822]:443"]),
        ("https://172.32.0.1/", vec!["172.32.0.1:443"]),
        ("https://100.128.0.1/", vec!["100.128.0.1:443"]),
        ("https://[2001:200::1]/", vec!["[2001:200::1]:443"]),
    ] {
        let addresses = rules.resolve(&read_url(url, &["https"]).unwrap(), true).await.unwrap();
        let expected: Vec<SocketAddr> = expected.iter().map(|address| address.parse().unwrap()).collect();
        assert_eq!(addresses, expected, "{url}");
    }
}

#[tokio::test]
async fn a_name_is_asked_for_once_so_that_it_cannot_change_its_mind() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let rebinding: Lookup = Arc::new(move |_, port| {
        let first = counter.fetch_add(1, Ordering::SeqCst) == 0;
        let address: IpAddr = if first { [93, 184, 216, 34].into() } else { [127, 0, 0, 1].into() };
        Box::pin(async move { Ok(vec![SocketAddr::new(address, port)]) })
    });
    let rules = AddressRules::new(|_| false).with_lookup(rebinding);
    let url = read_url("https://rebinding.test/", &["https"]).unwrap();
    assert_eq!(rules.resolve(&url, true).await.unwrap(), ["93.184.216.34:443".parse().unwrap()]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(rules.resolve(&url, true).await.is_err());
}

#[tokio::test]
async fn what_the_operator_allows_is_called_even_without_tls_and_nothing_beside_it() {
    let rules = AddressRules::new(|address| address == IpAddr::from([127, 0, 0, 1])).with_lookup(names());
    for allowed in
        ["http://127.0.0.1:8080/", "https://127.1/", "http://[::ffff:127.0.0.1]/", "http://localhost/"]
    {
        let url = read_url(allowed, &["https", "http"]).unwrap();
        assert!(rules.resolve(&url, url.scheme() == "https").await.is_ok(), "{allowed}");
    }
    for refused in ["http://127.0.0.2/", "https://10.0.0.1/", "https://many.test/", "http://public.test/"] {
        let url = read_url(refused, &["https", "http"]).unwrap();
        assert!(rules.resolve(&url, url.scheme() == "https").await.is_err(), "{refused}");
    }
}

#[tokio::test]
async fn our_own_listeners_are_never_called_even_in_a_network_that_is_allowed() {
    let rules = AddressRules::new(|_| true).with_lookup(names()).refusing(|host, address| {
        host == "behind-a-balancer.test" || address == "127.0.0.1:7443".parse().unwrap()
    });
    for own in [
        "https://127.0.0.1:7443/api/v1/users",
        "http://127.1:7443/",
        "https://[::ffff:127.0.0.1]:7443/",
        "https://localhost:7443/",
        "https://mixed.test:7443/",
        "https://behind-a-balancer.test/",
    ] {
        let url = read_url(own, &["https", "http"]).unwrap();
        let refused = rules.resolve(&url, true).await.unwrap_err();
        assert!(matches!(refused, AddressError::Own { .. }), "{own}: {refused}");
    }
    let saved = rules.judge_literal(&read_url("https://127.1:7443/", &["https"]).unwrap(), true);
    assert!(saved.unwrap_err().to_string().contains("one of this program's own listeners"));
    let beside = read_url("https://127.0.0.1:7444/", &["https"]).unwrap();
    assert!(rules.resolve(&beside, true).await.is_ok());
}

#[tokio::test]
async fn a_refusal_says_what_the_address_is_and_who_can_allow_it() {
    let rules = AddressRules::new(|_| false).with_lookup(names());
    let url = read_url("https://inside.test/", &["https"]).unwrap();
    let error = rules.resolve(&url, true).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "inside.test has the address 10.0.0.5, which is private: the operator may allow it in alerts.allow_destinations"
    );
}

/// A resolver with traps. It reads numbers as the system's does.
fn names() -> Lookup {
    Arc::new(|name, port| {
        Box::pin(async move {
            let addresses: &[&str] = match name.trim_end_matches('.').to_ascii_lowercase().as_str() {
                "public.test" => &["93.184.216.34", "2606:4700::1"],
                "localhost" | "foo.localhost" => &["127.0.0.1"],
                "inside.test" => &["10.0.0.5"],
                "mapped.test" => &["::ffff:192.168.0.1"],
                "mixed.test" => &["93.184.216.34", "127.0.0.1"],
                "many.test" => &["93.184.216.34", "2606:4700::1", "fd00::1"],
                "nat64.test" => &["64:ff9b::a00:1"],
                "behind-a-balancer.test" => &["93.184.216.34"],
                "metadata.google.internal" => &["169.254.169.254"],
                "empty.test" => &[],
                other => {
                    // `getaddrinfo` takes every spelling of an IPv4 address that `inet_aton` does.
                    let spelled = Url::parse(&format!("http://{other}/")).ok();
                    return match spelled.as_ref().and_then(Url::host) {
                        Some(Host::Ipv4(v4)) => Ok(vec![SocketAddr::new(v4.into(), port)]),
                        _ => Err(io::Error::other("no such name")),
                    };
                }
            };
            Ok(addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect())
        })
    })
}
