//! Conversations of known bytes, checked byte by byte at both ends while they come.
//!
//! ```text
//!   Conversation ── seed, lengths, pause ── `up` bytes, end ──►  Partner
//!                ◄─────────────────────── `down` bytes, end ──
//! ```
//!
//! Both directions go on at once, and neither waits for the other: where one is shorter or quicker,
//! the rest of the conversation is half-closed. One in turns is a request and its response, again and again. A byte lost, doubled, altered or out of order is a
//! [`Fault`], and so is an end that comes too early, or no end at all.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// What is written or read at once.
const PIECE_BYTES: usize = 16 * 1024;
const HEADER_BYTES: usize = 40;
/// The two directions of one conversation carry different sequences.
const OTHER_WAY: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a client will say and wants to hear.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conversation {
    pub seed: u64,
    pub up_bytes: u64,
    pub down_bytes: u64,
    /// Between two pieces, at both ends: traffic that has its own pace lives through more.
    pub pause: Duration,
    /// In how many turns it is held: a part of `up_bytes`, then the same part of `down_bytes`. 0: both at once.
    pub turns: u64,
}

/// How a conversation went wrong.
#[derive(Debug)]
pub enum Fault {
    Io(io::Error),
    /// This byte was another one.
    Altered {
        at: u64,
    },
    /// A proper end after so many bytes.
    Short {
        got: u64,
        of: u64,
    },
    /// More bytes than promised.
    Long,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Conversation {
    /// Holds it with the [`Partner`] that is reached through `at`.
    pub async fn hold(&self, at: SocketAddr) -> Result<(), Fault> {
        let mut stream = TcpStream::connect(at).await?;
        let (mut read, mut write) = stream.split();
        if self.turns > 0 {
            write.write_all(&self.header()).await?;
            for turn in 0..self.turns {
                let (from, to) = self.part(self.up_bytes, turn);
                say(&mut write, self.seed, from, to, self.pause).await?;
                let (from, to) = self.part(self.down_bytes, turn);
                hear_part(&mut read, self.seed ^ OTHER_WAY, from, to).await?;
            }
            write.shutdown().await?;
            return hear(&mut read, self.seed, self.down_bytes, self.down_bytes, self.pause).await;
        }
        let say = async {
            write.write_all(&self.header()).await?;
            say(&mut write, self.seed, 0, self.up_bytes, self.pause).await?;
            Ok(write.shutdown().await?)
        };
        let hear = hear(&mut read, self.seed ^ OTHER_WAY, 0, self.down_bytes, self.pause);
        tokio::try_join!(say, hear)?;
        Ok(())
    }

    /// From where to where one turn's part of so many bytes goes.
    fn part(&self, bytes: u64, turn: u64) -> (u64, u64) {
        let at = |turn: u64| bytes / self.turns * turn + (bytes % self.turns).min(turn);
        (at(turn), at(turn + 1))
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let pause = u64::try_from(self.pause.as_micros()).expect("nobody pauses for 500,000 years");
        let mut header = [0; HEADER_BYTES];
        for (place, value) in
            header.chunks_exact_mut(8).zip([self.seed, self.up_bytes, self.down_bytes, pause, self.turns])
        {
            place.copy_from_slice(&value.to_be_bytes());
        }
        header
    }

    fn read(header: &[u8; HEADER_BYTES]) -> Self {
        let mut values = header.chunks_exact(8).map(|value| {
            let value = value.try_into().expect("these are chunks of eight");
            u64::from_be_bytes(value)
        });
        let mut next = || values.next().expect("the header holds five values");
        let (seed, up_bytes, down_bytes) = (next(), next(), next());
        Self { seed, up_bytes, down_bytes, pause: Duration::from_micros(next()), turns: next() }
    }
}

/// The destination of conversations: holds any number of them, and keeps account.
pub struct Partner {
    addr: SocketAddr,
    account: Arc<Account>,
    task: AbortHandle,
}

#[derive(Default)]
struct Account {
    held: AtomicUsize,
    bytes: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Partner {
    /// Starts listening.
    pub async fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a loopback port can be listened on");
        let addr = listener.local_addr().expect("a listener has an address");
        let account = Arc::new(Account::default());
        let task = tokio::spawn(receive(listener, Arc::clone(&account))).abort_handle();
        Self { addr, account, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many conversations came to their proper end, as this side saw them.
    pub fn held(&self) -> usize {
        self.account.held.load(Ordering::Relaxed)
    }

    /// How many bytes those carried, both ways together.
    pub fn bytes(&self) -> u64 {
        self.account.bytes.load(Ordering::Relaxed)
    }

    /// What went wrong, as this side saw it.
    pub fn faults(&self) -> Vec<String> {
        self.account.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(listener: TcpListener, account: Arc<Account>) {
    let mut running = JoinSet::new();
    loop {
        // An accept fails for the connection's own reasons; the next one is another matter.
        let Ok((stream, _)) = listener.accept().await else { continue };
        while running.try_join_next().is_some() {}
        let account = Arc::clone(&account);
        running.spawn(async move {
            match answer(stream).await {
                Ok(conversation) => {
                    account
                        .bytes
                        .fetch_add(conversation.up_bytes + conversation.down_bytes, Ordering::Relaxed);
                    account.held.fetch_add(1, Ordering::Relaxed);
                }
                Err(fault) => {
                    let mut faults = account.faults.lock().unwrap_or_else(PoisonError::into_inner);
                    faults.push(format!("{fault:?}"));
                }
            }
        });
    }
}

async fn answer(mut stream: TcpStream) -> Result<Conversation, Fault> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let conversation = Conversation::read(&header);
    let Conversation { seed, up_bytes, down_bytes, pause, turns } = conversation;
    let (mut read, mut write) = stream.split();
    if turns > 0 {
        for turn in 0..turns {
            let (from, to) = conversation.part(up_bytes, turn);
            hear_part(&mut read, seed, from, to).await?;
            let (from, to) = conversation.part(down_bytes, turn);
            say(&mut write, seed ^ OTHER_WAY, from, to, pause).await?;
        }
        hear(&mut read, seed, up_bytes, up_bytes, pause).await?;
        write.shutdown().await?;
        return Ok(conversation);
    }
    let say = async {
        say(&mut write, seed ^ OTHER_WAY, 0, down_bytes, pause).await?;
        Ok(write.shutdown().await?)
    };
    tokio::try_join!(say, hear(&mut read, seed, 0, up_bytes, pause))?;
    Ok(conversation)
}

/// Says the sequence from `at` to `count`.
async fn say(
    to: &mut (impl AsyncWrite + Unpin),
    seed: u64,
    mut at: u64,
    count: u64,
    pause: Duration,
) -> Result<(), Fault> {
    let mut piece = vec![0; PIECE_BYTES];
    while at < count {
        let length = usize::try_from(count - at).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
        fill(&mut piece[..length], seed, at);
        to.write_all(&piece[..length]).await?;
        at += length as u64;
        rest(pause).await;
    }
    Ok(())
}

/// Hears the sequence from `at` to `count`, and not a byte more.
async fn hear_part(from: &mut (impl AsyncRead + Unpin), seed: u64, at: u64, count: u64) -> Result<(), Fault> {
    let mut part = from.take(count - at);
    hear(&mut part, seed, at, count, Duration::ZERO).await
}

/// Hears the sequence from `at` to `count`, and its end.
async fn hear(
    from: &mut (impl AsyncRead + Unpin),
    seed: u64,
    mut at: u64,
    count: u64,
    pause: Duration,
) -> Result<(), Fault> {
    let (mut piece, mut wanted) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return if at == count { Ok(()) } else { Err(Fault::Short { got: at, of: count }) };
        }
        if at + length as u64 > count {
            return Err(Fault::Long);
        }
        fill(&mut wanted[..length], seed, at);
        if piece[..length] != wanted[..length] {
            let differs = piece.iter().zip(&wanted).take_while(|(got, wanted)| got == wanted).count();
            return Err(Fault::Altered { at: at + differs as u64 });
        }
        at += length as u64;
        rest(pause).await;
    }
}

async fn rest(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// The bytes of the sequence `seed` from `at` on. By words: gigabytes are made of it, and compared with it.
fn fill(piece: &mut [u8], seed: u64, at: u64) {
    let word = |number: u64| mix(seed.wrapping_add(number)).to_le_bytes();
    let (mut number, within) = (at / 8, (at % 8) as usize);
    let (head, rest) = piece.split_at_mut(piece.len().min((8 - within) % 8));
    if !head.is_empty() {
        head.copy_from_slice(&word(number)[within..within + head.len()]);
        number += 1;
    }
    let (words, tail) = rest.as_chunks_mut::<8>();
    for (place, number) in words.iter_mut().zip(number..) {
        *place = word(number);
    }
    tail.copy_from_slice(&word(number + words.len() as u64)[..tail.len()]);
}

/// Chance with a seed: the same seed, the same throws.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// Any number.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(OTHER_WAY);
        mix(self.0)
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.throw() % end.max(1)
    }

    /// From 1 to about `max`, small ones as likely as large ones.
    pub fn of_any_size(&mut self, max: u64) -> u64 {
        let bits = self.below(u64::from(u64::BITS - max.leading_zeros()) + 1);
        (self.throw() % (1 << bits)).clamp(1, max)
    }
}

/// splitmix64's finalizer.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Link, wait_until};

    const SOON: Duration = Duration::from_secs(10);
    const SHORT: Conversation =
        Conversation { seed: 7, up_bytes: 100_000, down_bytes: 50_001, pause: Duration::ZERO, turns: 0 };

    #[tokio::test]
    async fn a_conversation_is_held_to_its_end_at_both_ends() {
        let partner = Partner::start().await;

        SHORT.hold(partner.addr()).await.unwrap();
        Conversation { up_bytes: 0, ..SHORT }.hold(partner.addr()).await.unwrap();
        Conversation { down_bytes: 0, ..SHORT }.hold(partner.addr()).await.unwrap();

        wait_until("the partner saw all of it", SOON, async || (partner.held() == 3).then_some(())).await;
        assert_eq!(partner.bytes(), 300_002);
        assert!(partner.faults().is_empty());
    }

    #[tokio::test]
    async fn a_conversation_in_turns_is_one_request_and_its_response_after_the_other() {
        let partner = Partner::start().await;

        Conversation { turns: 7, ..SHORT }.hold(partner.addr()).await.unwrap();
        Conversation { turns: 3, down_bytes: 0, ..SHORT }.hold(partner.addr()).await.unwrap();
        Conversation { turns: 1000, up_bytes: 3, down_bytes: 2, ..SHORT }.hold(partner.addr()).await.unwrap();

        wait_until("the partner saw all of it", SOON, async || (partner.held() == 3).then_some(())).await;
        assert_eq!(partner.bytes(), 250_006);
        assert!(partner.faults().is_empty());
    }

    #[tokio::test]
    async fn a_conversation_that_is_cut_is_a_fault_at_both_ends() {
        let partner = Partner::start().await;
        let link = Link::to(partner.addr()).await;
        link.cut_new_after(Some(60_000));

        assert!(matches!(SHORT.hold(link.addr()).await, Err(Fault::Io(_))));
        wait_until("the partner noticed", SOON, async || (partner.faults().len() == 1).then_some(())).await;
    }

    #[tokio::test]
    async fn whoever_hears_something_else_or_too_little_says_so() {
        let mut said = vec![0; 1000];
        fill(&mut said, 1, 0);
        let hear = async |bytes: &[u8], count| hear(&mut &bytes[..], 1, 0, count, Duration::ZERO).await;

        assert!(hear(&said, 1000).await.is_ok());
        assert!(matches!(hear(&said, 1001).await, Err(Fault::Short { got: 1000, of: 1001 })));
        assert!(matches!(hear(&said, 999).await, Err(Fault::Long)));
        said[700] ^= 1;
        assert!(matches!(hear(&said, 1000).await, Err(Fault::Altered { at: 700 })));
        said[700] ^= 1;
        said.remove(300);
        assert!(matches!(hear(&said, 999).await, Err(Fault::Altered { at: 300..310 })));
    }

    #[test]
    fn a_sequence_does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 100];
        fill(&mut whole, 5, 0);
        let mut parts = vec![0; 100];
        let (first, second) = parts.split_at_mut(37);
        fill(first, 5, 0);
        fill(second, 5, 37);
        assert_eq!(whole, parts);
    }
}
