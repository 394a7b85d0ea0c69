//! The icons, drawn as strokes in the colour of the text around them. They never stand alone: a word or a
//! label says the same.

/// The icon as inline SVG, hidden from screen readers.
pub(super) fn svg(name: &str) -> String {
    let strokes = strokes(name);
    format!(
        r#"<svg class="icon" viewBox="0 0 20 20" width="16" height="16" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">{strokes}</svg>"#
    )
}

fn strokes(name: &str) -> &'static str {
    match name {
        "check" => r#"<circle cx="10" cy="10" r="7.5"/><path d="m6.8 10.3 2.2 2.2 4.3-4.7"/>"#,
        "cross" => r#"<circle cx="10" cy="10" r="7.5"/><path d="m7.4 7.4 5.2 5.2m0-5.2-5.2 5.2"/>"#,
        "alert" => r#"<path d="M10 3 2.4 16.2h15.2zM10 8v3.6"/><path d="M10 13.9v.1"/>"#,
        "dot" => r#"<circle cx="10" cy="10" r="7.5"/><path d="M7 10h6"/>"#,
        "overview" => r#"<path d="M3 10.5 10 4l7 6.5M5 9v7.5h10V9"/>"#,
        "servers" => {
            r#"<rect x="3" y="3.5" width="14" height="5.5" rx="1.2"/><rect x="3" y="11" width="14" height="5.5" rx="1.2"/><path d="M6 6.2v.1M6 13.7v.1"/>"#
        }
        "enrol" => {
            r#"<circle cx="8" cy="7" r="3"/><path d="M2.5 16.5c.6-3 2.8-4.5 5.5-4.5s4.9 1.5 5.5 4.500M15.5 7v5M13 9.500h5"/>"#
        }
        "destinations" => {
            r#"<ellipse cx="10" cy="5.2" rx="6.5" ry="2.4"/><path d="M3.5 5.200v9.400c0 1.3 2.9 2.4 6.5 2.400s6.5-1.1 6.5-2.400V5.200M3.5 10c0 1.3 2.9 2.4 6.5 2.400s6.5-1.1 6.5-2.4"/>"#
        }
        "streams" => r#"<path d="M2.5 7h11M10.5 4l3 3-3 3M17.5 13h-11M9.5 10l-3 3 3 3"/>"#,
        "failovers" => r#"<path d="M3 5.500h5l4 9h5M3 14.500h5l1.3-3M12 8.500l1.3-3H17"/>"#,
        "messages" => r#"<path d="M3 4.500h14v9.500H9l-3.5 3v-3H3z"/>"#,
        "alerts" => r#"<path d="M5 13.500V9a5 5 0 0 1 10 0v4.500l1.5 1.500h-13zM8.5 17h3"/>"#,
        "audit" => r#"<path d="M5 2.800h7l3.5 3.500v11H5zM7.8 9.500h5M7.8 12.500h5"/>"#,
        "people" => {
            r#"<circle cx="10" cy="6.5" r="3.2"/><path d="M3.5 17c.7-3.6 3.3-5.2 6.5-5.200s5.8 1.6 6.5 5.2"/>"#
        }
        "settings" => {
            r#"<path d="M3 6h7M14 6h3M3 14h3M10 14h7"/><circle cx="12" cy="6" r="2"/><circle cx="8" cy="14" r="2"/>"#
        }
        "menu" => r#"<path d="M3 5.500h14M3 10h14M3 14.500h14"/>"#,
        "copy" => r#"<rect x="7" y="7" width="10" height="10" rx="1.5"/><path d="M13 7V3H3v10h4"/>"#,
        "out" => r#"<path d="M8 3.500H4v13h4M12 6.500l3.5 3.5-3.5 3.500M15.5 10H7.5"/>"#,
        "clock" => r#"<circle cx="10" cy="10" r="7.5"/><path d="M10 5.800V10l3 1.8"/>"#,
        "skip" => r#"<circle cx="10" cy="10" r="7.5" stroke-dasharray="2.5 2.5"/><path d="M7 10h6"/>"#,
        "arrow" => r#"<path d="M4 10h12M11 5l5 5-5 5"/>"#,
        _ => r#"<circle cx="10" cy="10" r="2"/>"#,
    }
}
