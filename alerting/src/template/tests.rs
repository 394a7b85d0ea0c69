//! What templates can do, and what they cannot.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn a_value_keeps_its_place_in_json_whether_it_stands_in_quotes_or_not() {
    let hostile = "a \"quoted\"\nline \\ }], \"x\": 1";
    let scope = scope_with("x", hostile);
    for (template, expected) in [
        (r#"{"text": {{ x }}}"#, json!({"text": hostile})),
        (r#"{"text": "Down: {{ x }}!"}"#, json!({"text": format!("Down: {hostile}!")})),
        (r#"{"text": "\"{{ x }}"}"#, json!({"text": format!("\"{hostile}")})),
        (r#"["{{ n }}", {{ n }}, {{ none }}, {{ list }}]"#, json!(["7", 7, null, ["a", "b\""]])),
        (r#"{"list": "{% for one in list %}{{ one }};{% endfor %}"}"#, json!({"list": "a;b\";"})),
        (r#"{"x": {{ list | tojson }}}"#, json!({"x": ["a", "b\""]})),
    ] {
        let text = render(template, Form::Json, &scope).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected, "{template}");
    }
}

#[test]
fn in_a_json_body_strings_are_templates_and_a_lone_expression_keeps_its_type() {
    let scope = scope_with("x", "\"}");
    let template = json!({"a": "{{ x }}", "b": "-{{ x }}-", "c": "{{ n }}", "d": ["{{ list }}", 1, true], "e": "{{ n }} {{ n }}"});
    let text = render_json(&template, &scope).unwrap();
    let expected = json!({"a": "\"}", "b": "-\"}-", "c": 7, "d": [["a", "b\""], 1, true], "e": "7 7"});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
}

#[test]
fn in_an_address_a_value_is_one_step_unless_it_is_said_to_be_safe() {
    let scope = scope_with("x", "a/../b?c=d&e#f\r\nü");
    let url = |template| render(template, Form::Url, &scope).unwrap();
    assert_eq!(url("https://h/{{ x }}/z"), "https://h/a%2F..%2Fb%3Fc%3Dd%26e%23f%0D%0A%C3%BC/z");
    assert_eq!(url("{{ secret('path') | safe }}"), "T0/B0/canary");
    assert_eq!(url("{{ secret('path') }}"), "T0%2FB0%2Fcanary");
}

#[test]
fn an_unknown_name_is_an_error_with_its_line() {
    let scope = scope_with("x", "");
    for form in [Form::Text, Form::Json, Form::Url] {
        let error = render("\n{{ nobody }}", form, &scope).unwrap_err();
        assert!(matches!(error, TemplateError::At { line: 2, .. }), "{error}");
        assert!(error.to_string().contains("nobody"), "{error}");
    }
    let error = render_json(&json!({"a": "{{ x.nothing }}"}), &scope).unwrap_err();
    assert!(error.to_string().contains("x.nothing"), "{error}");
    let error = render("{{ secret('absent') }}", Form::Text, &scope).unwrap_err();
    assert!(error.to_string().contains("add it under secrets"), "{error}");
}

#[test]
fn what_gives_no_json_says_where_and_shows_the_beginning() {
    let error = render(r#"{"text": {{ x }}"#, Form::Json, &scope_with("x", "hello")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("column 16") && text.contains(r#"{"text": "hello""#), "{text}");
}

#[test]
fn nothing_small_grows_without_bound() {
    let doubling = format!("{{% set x = 'aaaaaaaaaa' %}}{}", "{% set x = x ~ x %}".repeat(40));
    let nested = "{% for a in [1,2,3,4,5,6,7,8,9,0] %}".repeat(6) + &"{% endfor %}".repeat(6);
    let deep = "{% for a in list %}".repeat(30) + &"{% endfor %}".repeat(30);
    for (template, why) in [
        (doubling.as_str(), "{% set %} is not offered"),
        ("{% macro x() %}{% endmacro %}", "{% macro %} is not offered"),
        ("{% include 'x' %}", "{% include %} is not offered"),
        ("{% raw %} {{ \" {% endraw %} {{ 'x' * 9 }}", "{% raw %} is not offered"),
        ("{% filter upper %}x{% endfilter %}", "{% filter %} is not offered"),
        ("{%- with x = 1 %}{% endwith %}", "{% with %} is not offered"),
        ("{{ 'x' * 99999999 }}", "multiplication is not offered"),
        ("{{ '}}' * 99999999 }}", "multiplication is not offered"),
        ("{{ \"\\\"\" * 99999999 }}", "multiplication is not offered"),
        ("{# {{ #}{{ 'x' * 99999999 }}", "multiplication is not offered"),
        ("{% for i in range(100000) %}x{% endfor %}", "range"),
        ("{{ 'x' | center(99999999) }}", "center"),
        ("{{ '%99999999d' | format(1) }}", "format"),
        (nested.as_str(), "fuel"),
        (deep.as_str(), "recursion"),
    ] {
        let error = render(template, Form::Text, &scope_with("x", "")).unwrap_err().to_string();
        assert!(error.contains(why), "{template}: {error}");
        let error = render_json(&json!([template]), &scope_with("x", "")).unwrap_err().to_string();
        assert!(error.contains(why), "{template}: {error}");
    }
    let large = "x".repeat(1000);
    let many = "{% for a in list %}{% for b in list %}{% for c in list %}{{ x }}{{ x }}{{ x }}{{ x }}{% endfor %}{% endfor %}{% endfor %}".repeat(10);
    for form in [Form::Text, Form::Json] {
        let template = if form == Form::Json { format!("\"{many}\"") } else { many.clone() };
        let error = render(&template, form, &scope_with("x", &large)).unwrap_err();
        assert_eq!(error, TemplateError::TooLong(OUTPUT_MAX_BYTES));
    }
}

#[test]
fn a_body_of_many_templates_is_refused() {
    let error = render_json(&json!(vec!["{{ x }}"; 300]), &scope_with("x", "")).unwrap_err();
    assert!(error.to_string().contains("more than 256"), "{error}");
    assert!(render_json(&json!(vec!["x"; 300]), &scope_with("x", "")).is_ok());
}

#[test]
fn a_star_outside_of_a_tag_or_in_a_string_is_a_star() {
    let text = render("*{{ x }}* {{ 'a*b' }} {# * #}", Form::Text, &scope_with("x", "bold")).unwrap();
    assert_eq!(text, "*bold* a*b ");
}

#[test]
fn the_mark_that_holds_a_place_cannot_be_forged() {
    let forged = "\u{FDD0}0\u{FDD1}";
    let scope = scope_with("x", forged);
    assert_eq!(render("\"{{ x }}\"", Form::Json, &scope).unwrap(), format!("\"{forged}\""));
    assert_eq!(render("\"{{ x | safe }}\"", Form::Json, &scope).unwrap(), "\"0\"");
    assert!(render(&format!("\"{forged}\""), Form::Json, &scope).is_err());
}

#[test]
fn what_slack_takes_for_a_link_is_text() {
    let text = render("{{ x | slack }}", Form::Text, &scope_with("x", "<!channel> & co")).unwrap();
    assert_eq!(text, "&lt;!channel&gt; &amp; co");
}

proptest! {
    #[test]
    fn whatever_a_value_is_the_body_stays_the_json_it_was(x in any::<String>()) {
        let scope = scope_with("x", &x);
        let text = render(r#"{"a": {{ x }}, "b": "({{ x }})", "c": 1}"#, Form::Json, &scope).unwrap();
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(body, json!({"a": x, "b": format!("({x})"), "c": 1}));
    }

    #[test]
    fn no_template_panics(source in "([{}%#a-z\"'| x*.\\\\]|\\{\\{|\\}\\}|\\{%|%\\}|if|for|in|endif|endfor|x){0,40}") {
        for form in [Form::Text, Form::Json, Form::Url] {
            let _ = render(&source, form, &scope_with("x", "y"));
        }
        let _ = render_json(&json!([source]), &scope_with("x", "y"));
    }
}

/// `x`, and beside it a number, a list and nothing.
fn scope_with(name: &str, value: &str) -> Scope {
    let values = json!({name: value, "n": 7, "none": null, "list": ["a", "b\""]});
    let secrets = BTreeMap::from([("path".to_owned(), Secret::new("T0/B0/canary"))]);
    Scope { values: Value::from(minijinja::value::Serde(values)), secrets: Arc::new(secrets) }
}
