//! Cuts to the byte: at random offsets under many streams, and at the offsets of one short exchange.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postern_tests::{Conversation, Dice, Partner, holds_for, wait_until};

use super::crowd::{Crowd, Manner};
use super::{QUICK, SOON, setting, site, tunnel, until_another_tunnel};

/// Well below a second of this traffic.
const OFFSET_MAX: u64 = 1 << 20;
const GB: u64 = 1_000_000_000;
/// A websocket that lived this long counts as one that worked, and its successor comes at once.
const STABLE: Duration = Duration::from_millis(300);
const SHORT: Conversation =
    Conversation { seed: 3, up_bytes: 300, down_bytes: 200, pause: Duration::ZERO, turns: 0 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_at_random_offsets_under_many_streams_lose_and_repeat_nothing() {
    let by_the_clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let seed = setting("RESUME_SEED", by_the_clock.subsec_nanos().into());
    let cuts = usize::try_from(setting("RESUME_CUTS", 100)).expect("nobody cuts that often");
    let people = usize::try_from(setting("RESUME_PEOPLE", 20)).expect("nobody has so many friends");
    let bytes = setting("RESUME_GB", 0) * GB;
    println!("RESUME_SEED={seed} RESUME_CUTS={cuts} RESUME_PEOPLE={people} RESUME_GB={}", bytes / GB);
    // So far that the cuts fall into all of it: three offsets of four lie evenly below.
    let offset_max = (bytes / cuts.max(1) as u64 * 8 / 3).max(OFFSET_MAX);
    let manner = if bytes > 0 { Manner::Hurried } else { Manner::Calm };
    let partner = Partner::start().await;
    // A standby is there, and must not take over: the active is well, its websocket is not.
    let site = site(&["alpha", "beta"], QUICK, partner.addr()).await;
    let before = site.api().gateway().await;
    let (link, mut dice) = (site.link("alpha"), Dice::new(seed));
    let mut crowd = Crowd::gather(people, manner, seed, site.listen());
    let started = Instant::now();

    let first = link.accepted();
    link.cut_new_after(Some(an_offset(&mut dice, offset_max)));
    tunnel(&site, "alpha").cut_after(an_offset(&mut dice, offset_max));
    for cut in 1..=cuts {
        wait_until(&format!("cut {cut} is answered with another websocket"), SOON, async || {
            crowd.no_faults();
            (link.accepted() - first >= cut).then_some(())
        })
        .await;
        // This one has its offset; the next one gets another.
        link.cut_new_after((cut < cuts).then(|| an_offset(&mut dice, offset_max)));
        if cut.is_multiple_of(500) {
            println!("{cut} cuts in {:.0?}: {}", started.elapsed(), account(&crowd, &partner));
        }
    }

    crowd.goes_on().await;
    // Where the dice cut sooner than was hoped, the rest goes uncut.
    while partner.bytes() < bytes {
        crowd.goes_on().await;
    }
    let carried = account(&crowd, &partner);
    let held = crowd.disperse(&partner).await;
    println!("{cuts} cuts in {:.1?}: {carried}; {held} conversations in all", started.elapsed());
    assert!(partner.bytes() >= bytes);
    assert_eq!(site.api().gateway().await, before);
}

/// Most within the traffic; some where the websocket is only opened, or what was lost is repeated.
fn an_offset(dice: &mut Dice, max: u64) -> u64 {
    match dice.below(4) {
        0 => dice.of_any_size(max),
        _ => 1 + dice.below(max),
    }
}

fn account(crowd: &Crowd, partner: &Partner) -> String {
    format!(
        "{} conversations, {:.2} GB checked byte by byte",
        crowd.held(),
        partner.bytes() as f64 / GB as f64
    )
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
