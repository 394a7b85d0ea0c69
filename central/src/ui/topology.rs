//! The drawing on the overview: central, the candidates behind the customer's firewall, and what connects
//! them at this moment. Only geometry is decided here; the template draws it.

use super::answers::{Gateway, State};

/// Boxes drawn; the rest is named by its number.
const BOXES_MAX: usize = 8;
const BOX_HEIGHT: usize = 54;
const GAP: usize = 14;
const TOP: usize = 34;

pub(super) struct Topology {
    pub(super) height: usize,
    /// Where central's box begins, and its middle.
    pub(super) central_y: usize,
    pub(super) central_middle: usize,
    pub(super) streams: usize,
    pub(super) boxes: Vec<CandidateBox>,
    /// Candidates for which there was no room.
    pub(super) more: usize,
    /// The drawing in one sentence, for those who do not see it.
    pub(super) described: String,
}

pub(super) struct CandidateBox {
    pub(super) name: String,
    pub(super) y: usize,
    pub(super) middle: usize,
    /// `active`, `standby`, `waiting` or `away`: how its line is drawn.
    pub(super) kind: &'static str,
    pub(super) word: &'static str,
    /// The line from central to the box.
    pub(super) path: String,
}

impl Topology {
    pub(super) fn new(gateway: &Gateway) -> Self {
        let shown = gateway.candidates.len().min(BOXES_MAX);
        let rows = shown.max(1);
        let height = TOP + rows * (BOX_HEIGHT + GAP) + 10;
        let central_middle = TOP + (rows * (BOX_HEIGHT + GAP) - GAP) / 2;
        // The active first: nobody has to look for it.
        let mut candidates: Vec<_> = gateway.candidates.iter().collect();
        candidates.sort_by_key(|candidate| (!candidate.active, !candidate.connected));
        let boxes = candidates.iter().take(BOXES_MAX).enumerate().map(|(row, candidate)| {
            let y = TOP + row * (BOX_HEIGHT + GAP);
            let middle = y + BOX_HEIGHT / 2;
            let (kind, word) = if candidate.active {
                ("active", "active")
            } else if candidate.configured {
                ("standby", "standby, ready")
            } else if !candidate.connected {
                ("away", "not connected")
            } else if candidate.restart_required {
                ("waiting", "restart required")
            } else {
                ("waiting", "joining the group")
            };
            CandidateBox {
                name: shortened(&candidate.name),
                y,
                middle,
                kind,
                word,
                path: format!("M132 {central_middle}C200 {central_middle} 210 {middle} 278 {middle}"),
            }
        });
        let boxes: Vec<_> = boxes.collect();
        Self {
            height,
            central_y: central_middle - 34,
            central_middle,
            streams: gateway.streams,
            more: gateway.candidates.len() - shown,
            described: describe(gateway),
            boxes,
        }
    }
}

fn describe(gateway: &Gateway) -> String {
    let state = match (&gateway.state, &gateway.active) {
        (State::Up, Some(active)) => format!("A tunnel leads from {active} to central."),
        (State::Up | State::Idle | State::Connecting | State::Down, _) => "No tunnel is up.".to_owned(),
    };
    let others = gateway.candidates.iter().filter(|candidate| !candidate.active).map(|candidate| {
        let word = if candidate.configured {
            "stands by"
        } else if candidate.connected {
            "is connected and not ready"
        } else {
            "is not connected"
        };
        format!(" {} {word}.", candidate.name)
    });
    others.fold(state, |text, other| text + &other)
}

/// A name that fits into its box.
fn shortened(name: &str) -> String {
    if name.chars().count() <= 20 {
        return name.to_owned();
    }
    let kept: String = name.chars().take(19).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::answers::Candidate;

    #[test]
    fn the_active_comes_first_and_too_many_become_a_number() {
        let mut gateway = Gateway::sample();
        gateway.candidates = (0..12).map(|n| candidate(&format!("gw-{n:02}"), n == 7)).collect();
        let drawing = Topology::new(&gateway);
        assert_eq!((drawing.boxes.len(), drawing.more), (8, 4));
        assert_eq!((drawing.boxes[0].name.as_str(), drawing.boxes[0].kind), ("gw-07", "active"));
    }

    #[test]
    fn without_candidates_there_is_still_a_central() {
        let gateway = Gateway { candidates: Vec::new(), ..Gateway::sample() };
        let drawing = Topology::new(&gateway);
        assert!(drawing.boxes.is_empty() && drawing.central_y > 0 && drawing.height > 68);
    }

    fn candidate(name: &str, active: bool) -> Candidate {
        Candidate {
            name: name.to_owned(),
            node: None,
            connected: true,
            configured: true,
            active,
            restart_required: false,
        }
    }
}
