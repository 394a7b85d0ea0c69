//! What an application owner pastes: the same place in the words of the drivers and tools that speak each
//! protocol. Capitals stand for what only they know.

/// One string to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) label: &'static str,
    pub(super) text: String,
}

/// The strings for a destination of this type that is reached at `host:port`. `origin` is its own host, as
/// its certificate names it, and `path` what its URL says behind host and port.
pub(super) fn of(kind: &str, host: &str, port: u16, origin: &str, path: &str) -> Vec<Connection> {
    // An IPv6 address stands in brackets where a port follows it.
    let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let lines: Vec<(&'static str, String)> = match kind {
        "postgresql" => vec![
            ("JDBC URL", format!("jdbc:postgresql://{at}/DATABASE")),
            ("psql", format!("psql \"host={host} port={port} dbname=DATABASE user=USER sslmode=prefer\"")),
        ],
        "mysql" => vec![
            ("JDBC URL", format!("jdbc:mysql://{at}/DATABASE")),
            ("mysql", format!("mysql --host={host} --port={port} --user=USER --password DATABASE")),
        ],
        "sqlserver" => vec![
            (
                "JDBC URL",
                format!("jdbc:sqlserver://{at};databaseName=DATABASE;hostNameInCertificate={origin}"),
            ),
            ("sqlcmd", format!("sqlcmd -S tcp:{host},{port} -d DATABASE -U USER")),
        ],
        "oracle" => vec![
            ("JDBC URL (thin)", format!("jdbc:oracle:thin:@//{at}/SERVICE")),
            ("sqlplus", format!("sqlplus USER@//{at}/SERVICE")),
        ],
        "db2" => vec![("JDBC URL", format!("jdbc:db2://{at}/DATABASE"))],
        "ibmi" => vec![("JDBC URL (JTOpen)", format!("jdbc:as400://{host};portNumber={port};naming=system"))],
        "smtp" | "submission" => vec![
            ("SMTP host and port", at.clone()),
            ("Try it", format!("swaks --server {host} --port {port} --tls-optional --quit-after EHLO")),
        ],
        "smtps" => vec![
            ("SMTP host and port (TLS from the start)", at.clone()),
            ("Try it", format!("swaks --server {host} --port {port} --tls-on-connect --quit-after EHLO")),
        ],
        "http" => vec![
            ("URL", format!("http://{at}{path}")),
            ("WSDL URL", format!("http://{at}{path}?wsdl")),
            ("curl", format!("curl --header 'Host: {origin}' http://{at}{path}")),
        ],
        "https" => vec![
            ("URL", format!("https://{at}{path}")),
            ("WSDL URL", format!("https://{at}{path}?wsdl")),
            (
                "curl, with the certificate's own name",
                format!("curl --connect-to ::{at} https://{origin}{path}"),
            ),
        ],
        "ldap" | "ldaps" => vec![("ldapsearch", format!("ldapsearch -H {kind}://{at} -x -s base"))],
        "ssh" => vec![("ssh", format!("ssh -p {port} USER@{host}"))],
        "sftp" => vec![("sftp", format!("sftp -P {port} USER@{host}"))],
        "imap" | "imaps" => vec![("IMAP host and port", at.clone())],
        "tls" => vec![
            ("Address", at.clone()),
            ("Try it", format!("openssl s_client -connect {at} -servername {origin}")),
        ],
        _ => Vec::new(),
    };
    let lines = if lines.is_empty() { vec![("Address", at)] } else { lines };
    lines.into_iter().map(|(label, text)| Connection { label, text }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_gets_its_jdbc_url_and_its_own_tool() {
        let strings = of("postgresql", "central", 15432, "db.example", "");
        assert_eq!(strings[0].text, "jdbc:postgresql://central:15432/DATABASE");
        assert!(strings[1].text.starts_with("psql \"host=central port=15432 "));
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets_before_a_port() {
        assert_eq!(of("tcp", "::1", 22, "h", "")[0].text, "[::1]:22");
        assert!(of("oracle", "::1", 1521, "h", "")[0].text.contains("@//[::1]:1521/"));
    }

    #[test]
    fn a_web_service_keeps_its_path() {
        let strings = of("http", "central", 8080, "soap.example", "/orders");
        assert_eq!(strings[1].text, "http://central:8080/orders?wsdl");
    }
}
