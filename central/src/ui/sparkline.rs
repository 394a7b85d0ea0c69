//! The small drawings of the last hour on the overview. Only geometry and words are decided here.

use serde::Deserialize;

use super::words::bytes;

/// The drawing's size; the style sheet stretches it.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 44.0;
/// Steps of a whole hour: a shorter past is drawn at the right end.
const STEPS: usize = 360;

/// `GET /traffic`
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Traffic {
    step_s: u64,
    points: Vec<Point>,
}

#[derive(Debug, Clone, Deserialize)]
struct Point {
    opened: u64,
    refused: u64,
    bytes_to_site: u64,
    bytes_to_cloud: u64,
}

/// One line of the drawing.
pub(super) struct Sparkline {
    pub(super) title: &'static str,
    /// The newest step, in words.
    pub(super) now: String,
    /// The largest step.
    pub(super) most: String,
    pub(super) line: String,
    pub(super) area: String,
}

/// The drawings, or why there are none.
pub(super) enum Lately {
    Nothing(&'static str),
    Drawn(Vec<Sparkline>),
}

impl Traffic {
    pub(super) fn drawn(&self) -> Lately {
        if self.points.is_empty() {
            return Lately::Nothing("Central has just started: the first figures come within some seconds.");
        }
        let carried = |point: &Point| point.bytes_to_site + point.bytes_to_cloud;
        let quiet = |point: &Point| point.opened + point.refused + carried(point) == 0;
        if self.points.iter().all(quiet) {
            return Lately::Nothing("No connection came in the last hour, as far as central ran.");
        }
        let step_s = self.step_s.max(1);
        let per_step = |count: u64| format!("{count} in {step_s} s");
        let per_second = |count: u64| format!("{}/s", bytes(count / step_s));
        let mut drawn = vec![
            self.line("New connections", |point| point.opened, per_step),
            self.line("Carried, both ways", carried, per_second),
        ];
        if self.points.iter().any(|point| point.refused > 0) {
            drawn.push(self.line("Refused connections", |point| point.refused, per_step));
        }
        Lately::Drawn(drawn)
    }

    fn line(
        &self,
        title: &'static str,
        of: impl Fn(&Point) -> u64,
        words: impl Fn(u64) -> String,
    ) -> Sparkline {
        let counts: Vec<u64> = self.points.iter().map(of).collect();
        let most = counts.iter().copied().max().unwrap_or(0);
        let line = path(&counts, most);
        let begin = x(STEPS.saturating_sub(counts.len()));
        Sparkline {
            title,
            now: words(counts.last().copied().unwrap_or(0)),
            most: words(most),
            area: format!("{line}V{HEIGHT}H{begin:.0}Z"),
            line,
        }
    }
}

/// From the oldest to the newest, the newest at the right end.
fn path(counts: &[u64], most: u64) -> String {
    let first = STEPS.saturating_sub(counts.len());
    let mut path = String::new();
    for (n, &count) in counts.iter().enumerate() {
        // Room for half a stroke above and below.
        #[expect(clippy::cast_precision_loss, reason = "drawn to a tenth of a pixel")]
        let share = if most == 0 { 0.0 } else { count as f64 / most as f64 };
        let y = HEIGHT - 1.0 - share * (HEIGHT - 3.0);
        path.push_str(&format!("{}{:.0} {y:.1}", if n == 0 { 'M' } else { 'L' }, x(first + n)));
    }
    path
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred steps")]
fn x(step: usize) -> f64 {
    step as f64 * WIDTH / (STEPS - 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_past_stands_at_the_right_end_and_its_largest_step_at_the_top() {
        let Lately::Drawn(drawn) = traffic(&[0, 10, 5]).drawn() else { panic!("there was traffic") };
        assert_eq!(drawn[0].line, "M358 43.0L359 2.0L360 22.5");
        assert_eq!((drawn[0].now.as_str(), drawn[0].most.as_str()), ("5 in 10 s", "10 in 10 s"));
        assert!(drawn[0].area.ends_with("V44H358Z"), "{}", drawn[0].area);
        assert_eq!(drawn.len(), 2, "refusals are drawn where there were any");
    }

    #[test]
    fn an_hour_without_anybody_is_said_and_not_drawn() {
        assert!(matches!(traffic(&[0, 0]).drawn(), Lately::Nothing(why) if why.contains("No connection")));
        assert!(matches!(traffic(&[]).drawn(), Lately::Nothing(why) if why.contains("just started")));
    }

    fn traffic(opened: &[u64]) -> Traffic {
        let point = |&opened| Point { opened, refused: 0, bytes_to_site: opened, bytes_to_cloud: 0 };
        Traffic { step_s: 10, points: opened.iter().map(point).collect() }
    }
}
