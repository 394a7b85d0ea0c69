//! Cuts to the byte: at random offsets under many streams, and at the offsets of one short exchange.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postern_tests::{Conversation, Dice, Partner, holds_for, wait_until};

use super::crowd::Crowd;
use super::{QUICK, SOON, setting, site, tunnel, until_another_tunnel};

const PEOPLE: usize = 20;
/// Well below a second of this traffic.
const OFFSET_MAX: u64 = 1 << 20;
/// A websocket that lived this long counts as one that worked, and its successor comes at once.
const STABLE: Duration = Duration::from_millis(300);
const SHORT: Conversation = Conversation { seed: 3, up_bytes: 300, down_bytes: 200, pause: Duration::ZERO };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_at_random_offsets_under_twenty_streams_lose_and_repeat_nothing() {
    let by_the_clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let seed = setting("RESUME_SEED", by_the_clock.subsec_nanos().into());
    let cuts = usize::try_from(setting("RESUME_CUTS", 100)).expect("nobody cuts that often");
    println!("RESUME_SEED={seed} RESUME_CUTS={cuts}");
    let partner = Partner::start().await;
    // A standby is there, and must not take over: the active is well, its websocket is not.
    let site = site(&["alpha", "beta"], QUICK, partner.addr()).await;
    let before = site.api().gateway().await;
    let (link, mut dice) = (site.link("alpha"), Dice::new(seed));
    let mut crowd = Crowd::gather(PEOPLE, seed, site.listen());
    let started = Instant::now();

    let first = link.accepted();
    link.cut_new_after(Some(an_offset(&mut dice)));
    tunnel(&site, "alpha").cut_after(an_offset(&mut dice));
    for cut in 1..=cuts {
        wait_until(&format!("cut {cut} is answered with another websocket"), SOON, async || {
            crowd.no_faults();
            (link.accepted() - first >= cut).then_some(())
        })
        .await;
        // This one has its offset; the next one gets another.
        link.cut_new_after((cut < cuts).then(|| an_offset(&mut dice)));
    }

    crowd.goes_on().await;
    let held = crowd.disperse(&partner).await;
    println!("{cuts} cuts in {:.1?}: {held} conversations of {} bytes", started.elapsed(), partner.bytes());
    assert_eq!(site.api().gateway().await, before);
}

/// Most within the traffic; some where the websocket is only opened, or what was lost is repeated.
fn an_offset(dice: &mut Dice) -> u64 {
    match dice.below(4) {
        0 => dice.of_any_size(OFFSET_MAX),
        _ => 1 + dice.below(OFFSET_MAX),
    }
}

#[tokio::test]
async fn a_cut_at_any_offset_of_a_short_exchange_leaves_it_whole() {
    let stride = setting("RESUME_STRIDE", 37);
    let partner = Partner::start().await;
    let site = site(&["alpha"], QUICK, partner.addr()).await;
    SHORT.hold(site.listen()).await.unwrap();

    let (mut held, mut offset) = (1, 1);
    loop {
        let lane = tunnel(&site, "alpha");
        holds_for(STABLE, async || assert!(lane.is_open(), "the websocket was lost by itself")).await;
        lane.cut_after(offset);
        SHORT.hold(site.listen()).await.unwrap_or_else(|fault| panic!("cut after {offset} bytes: {fault:?}"));
        held += 1;
        if lane.is_open() {
            break; // the whole exchange took fewer bytes
        }
        until_another_tunnel(&site, "alpha", &lane).await;
        offset += stride;
    }

    println!("{} offsets, up to {offset} bytes, which the exchange does not have", held - 1);
    assert!(offset > SHORT.up_bytes + SHORT.down_bytes, "an exchange cannot be shorter than its bytes");
    wait_until("both sides count the same", SOON, async || (partner.held() == held).then_some(())).await;
    assert_eq!(partner.faults(), [""; 0]);
}
