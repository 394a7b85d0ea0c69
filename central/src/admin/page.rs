//! `/`: a page that says what listens here, to whoever opens the admin address in a browser.

use axum::response::Html;

const PAGE: &str = concat!(
    r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Postern</title></head>
<body>
<h1>Postern</h1>
<p>This is postern-central "#,
    env!("CARGO_PKG_VERSION"),
    r#", the cloud side of a Secure Gateway. Its REST API is under <code>/api/v1</code> and needs an API token.</p>
<p>From a terminal:</p>
<pre>posternctl --server URL --token-file FILE --ca-cert FILE status</pre>
</body>
</html>
"#
);

pub(super) async fn show() -> Html<&'static str> {
    Html(PAGE)
}
