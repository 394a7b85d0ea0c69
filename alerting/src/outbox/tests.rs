//! The outbox alone; with the policy and crashes around it, see `crashes`.

use proptest::prelude::*;
use serde_json::json;
use time::macros::datetime;

use super::*;
use crate::incident::{Context, Incident, Transition};

const START: OffsetDateTime = datetime!(2026-11-21 03:00 UTC);
const S: Duration = Duration::from_secs(1);
const MIN: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn every_endpoint_hears_of_down_and_up_and_of_the_rest_only_who_asked() {
    let asked = BTreeSet::from([Kind::Failover]);
    let nothing = BTreeSet::new();
    let to = [Recipient { endpoint: "a", also: &asked }, Recipient { endpoint: "b", also: &nothing }];
    let told = |alert: &Alert| {
        let planned = plan(alert, to, |_| true, START);
        planned.into_iter().map(|delivery| delivery.endpoint).collect::<Vec<_>>()
    };
    assert_eq!(told(&down("1")), ["a", "b"]);
    assert_eq!(told(&up("1")), ["a", "b"]);
    assert_eq!(told(&about(Kind::Failover)), ["a"]);
    assert_eq!(told(&about(Kind::ToleranceLost)), [""; 0]);
}

#[test]
fn an_endpoint_that_was_not_told_of_the_down_hears_no_up() {
    let none = BTreeSet::new();
    let to = ["old", "new"].map(|endpoint| Recipient { endpoint, also: &none });
    let downs = plan(&down("1"), [to[0]], |_| false, START);
    let ups = plan(&up("1"), to, |id| downs.iter().any(|down| down.id == *id), START);
    assert_eq!(ups.iter().map(|up| up.endpoint.as_str()).collect::<Vec<_>>(), ["old"]);
}

#[test]
fn nobody_is_told_by_itself_that_it_fails() {
    let also = BTreeSet::from([Kind::DeliveriesFailing]);
    let mut alert = about(Kind::DeliveriesFailing);
    alert.details.insert("endpoint".into(), "a".into());
    let to = ["a", "b"].map(|endpoint| Recipient { endpoint, also: &also });
    let planned = plan(&alert, to, |_| false, START);
    assert_eq!(planned.iter().map(|d| d.endpoint.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn the_same_alert_planned_twice_is_the_same_record() {
    let first = one(&down("1"));
    let later = one_at(&down("1"), START + HOUR);
    assert_eq!(first.id, later.id);
    assert_ne!(first.id, one(&up("1")).id);
    assert_ne!(first.id, one(&down("2")).id);
    assert_ne!(
        DeliveryId::of(&IncidentId::new("a"), Kind::Down, "b"),
        DeliveryId::of(&IncidentId::new("ab"), Kind::Down, "")
    );
}

#[test]
fn attempts_come_at_once_then_ever_more_slowly_for_two_days() {
    let mut delivery = one(&down("1"));
    let mut now = START;
    let mut at = Vec::new();
    let effect = loop {
        let sending = delivery.begin("me", now).unwrap();
        at.push(now - START);
        let (next, effect) = sending.finish(failed(), now, 200); // 200 is the middle of the dice
        delivery = next;
        match &delivery.state {
            State::Waiting { next_at, .. } => now = *next_at,
            _ => break effect,
        }
    };
    let first = [0, 5, 20, 80, 380, 1280, 4880, 8480];
    assert_eq!(at[..8], first.map(time::Duration::seconds));
    assert!(matches!(effect, Some(Effect::GivenUp { .. })), "{effect:?}");
    assert!(at.last() <= Some(&time::Duration::hours(48)) && at.last() > Some(&time::Duration::hours(46)));
    assert_eq!(delivery.attempts.len(), ATTEMPTS_KEPT);
    assert_eq!(delivery.attempts[0].at, START, "the first attempt is remembered");
}

#[test]
fn an_hour_away_loses_nothing() {
    let mut delivery = one(&down("1"));
    let mut now = START;
    while delivery.is_open() {
        let answer = if now < START + HOUR { failed() } else { answered(204) };
        delivery = delivery.begin("me", now).unwrap().finish(answer, now, 0).0;
        if let State::Waiting { next_at, .. } = delivery.state {
            now = next_at;
        }
    }
    assert!(matches!(delivery.state, State::Delivered { .. }));
    assert!(now - START < HOUR * 2);
}

#[test]
fn only_2xx_is_delivered() {
    for (status, delivered) in [
        (199, false),
        (200, true),
        (202, true),
        (299, true),
        (301, false),
        (404, false),
        (429, false),
        (500, false),
    ] {
        let (next, _) = sending(&down("1")).finish(answered(status), START, 0);
        assert_eq!(matches!(next.state, State::Delivered { .. }), delivered, "{status}");
        assert_eq!(next.is_open(), !delivered, "{status}");
    }
}

#[test]
fn gone_ends_it_and_switches_the_endpoint_off() {
    let (next, effect) = sending(&down("1")).finish(answered(410), START, 0);
    assert!(matches!(next.state, State::GivenUp { .. }));
    assert!(
        matches!(effect, Some(Effect::DisableEndpoint { endpoint, why }) if endpoint == "a" && why.contains("410"))
    );
}

#[test]
fn a_receiver_may_ask_for_time_but_not_for_more_than_an_hour() {
    let wait = |retry_after_s| {
        let mut attempt = answered(429);
        attempt.outcome = Outcome::Answered { status: 429, excerpt: String::new(), retry_after_s };
        match sending(&down("1")).finish(attempt, START, 200).0.state {
            State::Waiting { next_at, .. } => next_at - START,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(wait(None), S * 5);
    assert_eq!(wait(Some(1)), S * 5, "sooner than our own rhythm is not asked for");
    assert_eq!(wait(Some(120)), MIN * 2);
    assert_eq!(wait(Some(u64::MAX)), HOUR);
}

#[test]
fn an_up_waits_until_its_down_is_over_and_for_no_other() {
    let (down1, up1, down2) = (one(&down("1")), one(&up("1")), one(&down("2")));
    let due_of = |deliveries: &[Delivery], now| {
        due(deliveries, now)
            .iter()
            .map(|d| (d.alert.kind, d.alert.incident.id.to_string()))
            .collect::<Vec<_>>()
    };
    let (down1, _) = down1.begin("me", START).unwrap().finish(failed(), START, 0);
    let waiting = [down1.clone(), up1.clone()];
    assert_eq!(due_of(&waiting, START), []);
    assert_eq!(next_due(&waiting), due_at(&down1), "the up wakes nobody before its down");
    assert_eq!(due_of(&[down1.clone(), up1.clone(), down2], START), [(Kind::Down, "2".into())]);
    for over in [down1.finish(answered(200), START, 0).0, down1.give_up("removed", START)] {
        assert_eq!(due_of(&[over, up1.clone()], START), [(Kind::Up, "1".into())]);
    }
}

#[test]
fn a_slow_receiver_delays_only_itself() {
    let nothing = BTreeSet::new();
    let to = ["a", "b"].map(|endpoint| Recipient { endpoint, also: &nothing });
    let mut deliveries = plan(&down("1"), to, |_| false, START);
    deliveries.extend(plan(&down("2"), to, |_| false, START + S));
    deliveries[0] = deliveries[0].begin("me", START).unwrap();
    let now = START + S * 2;
    let due: Vec<_> = due(&deliveries, now).iter().map(|d| (d.endpoint.as_str(), d.created_at)).collect();
    assert_eq!(due, [("b", START)]);
    let behind = [deliveries[0].clone(), deliveries[2].clone()];
    assert_eq!(next_due(&behind), Some(START + LEASE), "what is behind the slow one wakes nobody");
}

#[test]
fn what_waits_goes_out_once_its_receiver_takes_something_again() {
    let waits = |outcome| {
        let mut waiting = sending(&down("1"));
        for _ in 0..7 {
            let attempt = Attempt { outcome: Outcome::clone(&outcome), ..failed() };
            waiting = waiting.finish(attempt, START, 200).0;
        }
        let taken = sending(&down("2")).finish(answered(200), START + S, 0).0;
        let due = due(&[waiting, taken], START + S * 2).len();
        due == 0
    };
    assert!(!waits(Outcome::Failed { why: "no connection".into() }));
    let busy = Outcome::Answered { status: 429, excerpt: String::new(), retry_after_s: Some(600) };
    assert!(waits(busy), "it asked for time");
}

#[test]
fn an_outage_overtakes_what_else_has_piled_up() {
    let also = BTreeSet::from([Kind::Failover]);
    let to = [Recipient { endpoint: "a", also: &also }];
    let mut deliveries = plan(&about(Kind::Failover), to, |_| false, START);
    deliveries.extend(plan(&down("1"), to, |_| false, START + S));
    assert_eq!(due(&deliveries, START + S)[0].alert.kind, Kind::Down);
}

#[test]
fn what_a_dead_owner_held_is_tried_again_when_its_lease_is_over() {
    let held = one(&down("1")).begin("dead", START).unwrap();
    assert!(held.begin("me", START + LEASE - S).is_none());
    assert_eq!(next_due(std::slice::from_ref(&held)), Some(START + LEASE));
    assert!(held.begin("me", START + LEASE).is_some());
    assert!(held.release(START + S).begin("me", START + S).is_some());
}

#[test]
fn a_wall_clock_set_back_postpones_nothing() {
    let (waiting, _) = sending(&down("1")).finish(failed(), START, 0);
    let is_due = |now| !due(std::slice::from_ref(&waiting), now).is_empty();
    assert!(!is_due(START + S));
    assert!(is_due(START - HOUR));
    assert!(sending(&down("1")).begin("me", START - HOUR).is_some());
}

#[test]
fn long_trouble_is_told_once_and_trouble_with_telling_is_not_told() {
    let mut effects = Vec::new();
    let mut delivery = one(&down("1"));
    for _ in 0..10 {
        let (next, effect) = delivery.finish(failed(), START, 0);
        effects.extend(effect);
        delivery = next;
    }
    assert!(matches!(&effects[..], [Effect::Failing { .. }]), "{effects:?}");
    let mut meta = one(&down("1"));
    meta.alert.kind = Kind::DeliveriesFailing;
    for _ in 0..10 {
        let (next, effect) = meta.finish(failed(), START, 0);
        assert_eq!(effect, None);
        meta = next;
    }
}

#[test]
fn it_can_be_sent_again_whatever_became_of_it_under_its_id() {
    let (delivered, _) = sending(&down("1")).finish(answered(200), START, 0);
    let again = delivered.send_again(START + HOUR * 100);
    assert_eq!((&again.id, again.attempts.len()), (&delivered.id, 1));
    let (next, _) = again.begin("me", START + HOUR * 100).unwrap().finish(failed(), START + HOUR * 100, 0);
    assert!(next.is_open(), "its age counts anew");
}

/// Stored by one version and read by the next: a change here needs a migration.
#[test]
fn the_stored_form_of_a_delivery_is_pinned() {
    let (delivery, _) = sending(&down("1")).finish(answered(500), START, 200);
    let expected = json!({
        "id": "msg_8cc9df3bcd0b5877ed0265b0c0d8e1df",
        "endpoint": "a",
        "alert": {
            "kind": "down",
            "incident": {
                "id": "1", "key": "1", "opened_at": "2026-11-21T03:00:00Z",
                "context": {"environment": "acme", "summary": "down", "tried": []}
            },
            "summary": "down", "at": "2026-11-21T03:00:00Z", "test": false
        },
        "created_at": "2026-11-21T03:00:00Z",
        "state": {"state": "waiting", "since": "2026-11-21T03:00:00Z", "next_at": "2026-11-21T03:00:05Z"},
        "tries": 1,
        "attempts": [{
            "at": "2026-11-21T03:00:00Z", "took_ms": 1, "request": "POST /",
            "outcome": {"outcome": "answered", "status": 500, "excerpt": ""}
        }]
    });
    assert_eq!(serde_json::to_value(&delivery).unwrap(), expected);
    assert_eq!(serde_json::from_value::<Delivery>(expected).unwrap(), delivery);
}

proptest! {
    #[test]
    fn a_delay_is_within_a_fifth_of_its_step(tries in 0_u32..1000, dice in any::<u64>()) {
        let delay = retry_delay(tries, None, dice);
        let middle = retry_delay(tries, None, 200);
        prop_assert!(delay >= middle * 8 / 10 && delay <= middle * 12 / 10, "{delay:?} of {middle:?}");
        prop_assert!(delay >= S && delay <= HOUR * 12 / 10);
    }
}

fn down(id: &str) -> Alert {
    Alert::of(Transition::Down(incident(id)), START)
}

fn up(id: &str) -> Alert {
    Alert::of(Transition::Up(incident(id)), START)
}

fn about(kind: Kind) -> Alert {
    Alert::about(kind, IncidentId::new("other"), Context::default(), START)
}

fn incident(id: &str) -> Incident {
    let context = Context { environment: "acme".into(), summary: "down".into(), ..Context::default() };
    Incident::new(IncidentId::new(id), START, context)
}

fn one(alert: &Alert) -> Delivery {
    one_at(alert, START)
}

fn one_at(alert: &Alert, now: OffsetDateTime) -> Delivery {
    let nothing = BTreeSet::new();
    plan(alert, [Recipient { endpoint: "a", also: &nothing }], |_| true, now).remove(0)
}

fn sending(alert: &Alert) -> Delivery {
    one(alert).begin("me", START).unwrap()
}

fn due_at(delivery: &Delivery) -> Option<OffsetDateTime> {
    match delivery.state {
        State::Waiting { next_at, .. } => Some(next_at),
        _ => None,
    }
}

fn failed() -> Attempt {
    Attempt { outcome: Outcome::Failed { why: "no connection".into() }, ..answered(0) }
}

fn answered(status: u16) -> Attempt {
    let outcome = Outcome::Answered { status, excerpt: String::new(), retry_after_s: None };
    Attempt { at: START, took_ms: 1, request: "POST /".into(), remote: None, outcome }
}
