//! What a page offers to be sent: its forms, with their fields and what stands in them.

/// One form.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) method: String,
    pub(super) action: String,
    pub(super) fields: Vec<Field>,
}

/// One field: its name, and what a browser would send for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: Option<String>,
    /// What a list offers; empty for everything else.
    pub(super) choices: Vec<String>,
}

/// Every form of a page.
pub(super) fn forms(html: &str) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    let mut rest = html;
    while let Some((_, from_tag)) = rest.split_once('<') {
        let (tag, behind) = from_tag.split_once('>').unwrap_or((from_tag, ""));
        rest = behind;
        match tag.split_ascii_whitespace().next() {
            Some("form") => forms.push(Form {
                method: attribute(tag, "method").unwrap_or_default(),
                action: attribute(tag, "action").unwrap_or_default(),
                fields: Vec::new(),
            }),
            Some(kind @ ("input" | "textarea" | "select")) => {
                let (Some(form), Some(name)) = (forms.last_mut(), attribute(tag, "name")) else { continue };
                let inside = rest.split(&format!("</{kind}>")).next().unwrap_or_default();
                let (value, choices) = match kind {
                    "textarea" => (Some(unescaped(inside)), Vec::new()),
                    "select" => chosen(inside),
                    _ if attribute(tag, "type").as_deref() == Some("checkbox") => {
                        (has(tag, "checked").then(|| "on".to_owned()), Vec::new())
                    }
                    _ => (attribute(tag, "value"), Vec::new()),
                };
                form.fields.push(Field { name, value, choices });
            }
            _ => (),
        }
    }
    forms
}

/// What is chosen of a list's options, and what there is to choose from.
fn chosen(options: &str) -> (Option<String>, Vec<String>) {
    let options = options.split("<option").skip(1).map(|option| {
        let (tag, words) = option.split_once('>').unwrap_or((option, ""));
        let words = words.split('<').next().unwrap_or_default();
        (has(tag, "selected"), attribute(tag, "value").unwrap_or_else(|| unescaped(words)))
    });
    let options: Vec<(bool, String)> = options.collect();
    let chosen = options.iter().find(|(chosen, _)| *chosen).or(options.first());
    (chosen.map(|(_, value)| value.clone()), options.into_iter().map(|(_, value)| value).collect())
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, value) = tag.split_once(&format!(" {name}=\""))?;
    value.split('"').next().map(unescaped)
}

fn has(tag: &str, word: &str) -> bool {
    tag.split_ascii_whitespace().any(|part| part == word)
}

pub(super) fn unescaped(text: &str) -> String {
    [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")]
        .into_iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[test]
fn a_page_is_read_as_a_browser_reads_it() {
    let html = r#"<form method="post" action="/x"><input name="a" value="1 &#60; 2"><input type="checkbox" name="b" checked>
        <select id="s" name="c"><option value="u">U</option><option selected>V</option></select>
        <textarea name="d">line</textarea></form><p>text</p>"#;
    let [form] = &forms(html)[..] else { panic!("one form") };
    let fields: Vec<_> = form.fields.iter().map(|one| (one.name.as_str(), one.value.as_deref())).collect();
    assert_eq!(fields, [("a", Some("1 < 2")), ("b", Some("on")), ("c", Some("V")), ("d", Some("line"))]);
    assert_eq!((form.method.as_str(), form.action.as_str()), ("post", "/x"));
    assert_eq!(form.fields[2].choices, ["u", "V"]);
}
