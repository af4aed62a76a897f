use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::generation::Maker;
use crate::worker::flight::Shares;
use crate::worker::message::{FromWorker, decode};
use crate::worker::piece::packets;
use crate::{Chunk, ChunkToken, Generation, GenerationOptions, Sampling, TopToken};

const VOCAB: u32 = 100;
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Account {
    input: Mutex<Vec<(u32, u32)>>,
    output: Mutex<u32>,
    ran: Mutex<Duration>,
}

impl GenerationAccount for Account {
    fn input(&self, fresh: u32, cached: u32) {
        self.input.lock().unwrap().push((fresh, cached));
    }

    fn output(&self, tokens: u32) {
        *self.output.lock().unwrap() += tokens;
    }

    fn ran(&self, time: Duration) {
        *self.ran.lock().unwrap() += time;
    }
}

struct Nobody;

impl Maker for Nobody {
    fn touch(&self, _: &Arc<Shared>) {}
}

/// A generation of two choices of up to 40 tokens, its prompt of 5 tokens running.
struct Scene {
    course: Course,
    shares: Shares,
    reader: Generation,
    account: Arc<Account>,
    cancel: CancellationToken,
    answer: oneshot::Receiver<Admission>,
}

fn scene(logprobs: Option<u32>) -> Scene {
    let mut scene = waiting(logprobs, None);
    scene.course.admit().unwrap();
    scene.course.prefill(0, &mut scene.shares).unwrap();
    scene
}

fn waiting(logprobs: Option<u32>, reuse: Option<[u8; 32]>) -> Scene {
    let (account, cancel) = (Arc::new(Account::default()), CancellationToken::new());
    let options = GenerationOptions {
        sampling: Sampling::default(),
        max_tokens: 40,
        stop: Vec::new(),
        ignore_eos: false,
        logprobs,
        constraint: None,
    };
    let request = GenerationRequest {
        prompt: vec![1; 5],
        options,
        choices: 2,
        owner: 1,
        reuse,
        deadline: Instant::now() + Duration::from_secs(60),
        cancel: cancel.clone(),
        account: Arc::clone(&account) as _,
    };
    let (course, answer) = Course::new(&request, VOCAB, GRACE);
    let reader = Generation::new(Arc::clone(&course.shared), Arc::new(Nobody));
    Scene { course, shares: Shares::new(Instant::now()), reader, account, cancel, answer }
}

fn token(id: u32, bytes: &str, text_end: usize) -> ChunkToken {
    ChunkToken { id, bytes: bytes.as_bytes().to_vec(), text_end, logprob: 0.0, top: Vec::new() }
}

fn chunk(choice: u32, text: &str, tokens: Vec<ChunkToken>, finish: Option<Finish>) -> Chunk {
    Chunk { choice, text: text.to_owned(), tokens, finish, usage: GenerationUsage::default() }
}

impl Scene {
    fn hear(&mut self, chunk: &Chunk) -> Result<(), Violation> {
        for packet in packets(1, chunk).unwrap() {
            let (FromWorker::Piece { piece, .. }, data) = decode(&packet).unwrap() else { panic!() };
            self.course.piece(&piece, data, &mut self.shares)?;
        }
        Ok(())
    }

    /// One token of one letter for choice 0, the `at`th.
    fn letter(&mut self, at: usize) -> Result<(), Violation> {
        self.hear(&chunk(0, "x", vec![token(7, "x", at)], None))
    }

    async fn read(&mut self) -> Chunk {
        let read = self.reader.next().await.unwrap().unwrap();
        self.course.hear_reader(&mut self.shares);
        read
    }

    fn said(&mut self) -> Vec<ToWorker> {
        let mut said = Vec::new();
        assert!(self.course.say(1, |message| {
            said.push(message.clone());
            true
        }));
        said
    }
}

/// What the worker says is refused, and nothing was charged for it.
#[track_caller]
fn refused(chunk: &Chunk) {
    let mut scene = scene(None);
    scene.hear(chunk).unwrap_err();
    assert_eq!(*scene.account.output.lock().unwrap(), 0, "{chunk:?}");
}

#[tokio::test]
async fn tokens_are_charged_and_read() {
    let mut scene = scene(None);
    scene.letter(1).unwrap();
    scene.hear(&chunk(1, "ab", vec![token(8, "a", 1), token(9, "b", 2)], Some(Finish::Stop))).unwrap();
    assert_eq!(*scene.account.output.lock().unwrap(), 3);
    assert_eq!(*scene.account.input.lock().unwrap(), [(5, 0)]);
    let first = scene.read().await;
    assert_eq!((first.choice, first.text.as_str(), first.usage.completion_tokens), (0, "x", 3));
    let second = scene.read().await;
    assert_eq!((second.choice, second.text.as_str(), second.finish), (1, "ab", Some(Finish::Stop)));
    assert!(!scene.course.has_ended());
    scene.hear(&chunk(0, "", vec![token(2, "", 1)], Some(Finish::Stop))).unwrap();
    assert!(scene.course.has_ended());
    scene.course.end(None, &mut scene.shares);
    assert!(scene.course.is_over());
    scene.read().await;
    assert!(scene.reader.next().await.unwrap().is_none());
}

#[test]
fn what_nobody_asked_for_is_refused() {
    let one = |token| chunk(0, "", vec![token], None);
    refused(&one(token(VOCAB, "x", 1)));
    refused(&chunk(2, "", vec![token(1, "x", 1)], None));
    refused(&chunk(0, "", Vec::new(), None));
    refused(&chunk(0, "", Vec::new(), Some(Finish::Stop)));
    refused(&chunk(0, "", Vec::new(), Some(Finish::Cancelled)));
    refused(&chunk(0, "", vec![token(1, "x", 1)], Some(Finish::Cancelled)));
    refused(&chunk(0, "", vec![token(1, "x", 1)], Some(Finish::Length)));
    refused(&one(ChunkToken { logprob: -1.0, ..token(1, "x", 1) }));
    let top = vec![TopToken { id: 1, bytes: Vec::new(), logprob: -1.0 }];
    refused(&one(ChunkToken { top, ..token(1, "x", 1) }));
}

#[test]
fn text_is_what_tokens_make() {
    refused(&chunk(0, "more than one", vec![token(1, "x", 1)], None));
    refused(&chunk(0, "", vec![token(1, "x", 100)], None));
    let mut scene = scene(None);
    scene.letter(1).unwrap();
    scene.hear(&chunk(0, "", vec![token(1, "x", 0)], None)).unwrap_err();
}

#[test]
fn a_half_character_at_the_end_may_become_one() {
    let mut scene = scene(None);
    let half = ChunkToken { bytes: vec![0xe2, 0x82], ..token(1, "", 1) };
    scene.hear(&chunk(0, "\u{fffd}", vec![half], Some(Finish::Stop))).unwrap();
}

#[test]
fn log_probabilities_are_numbers_and_as_many_as_were_asked_for() {
    let with = |logprob: f32, count: u32| {
        let top = (0..count).map(|id| TopToken { id, bytes: b"x".to_vec(), logprob }).collect();
        chunk(0, "x", vec![ChunkToken { logprob: -0.5, top, ..token(1, "x", 1) }], None)
    };
    scene(Some(2)).hear(&with(-1.0, 2)).unwrap();
    scene(Some(2)).hear(&with(-1.0, 1)).unwrap();
    scene(Some(2)).hear(&with(-1.0, 3)).unwrap_err();
    let mut high = with(-1.0, 1);
    high.tokens[0].top[0].id = VOCAB;
    scene(Some(2)).hear(&high).unwrap_err();
    // JSON has none, so this is no message at all; what deserializes is checked again.
    let mut terms = scene(Some(2));
    let infinite = ChunkToken { logprob: f32::INFINITY, ..token(1, "x", 1) };
    let choice = &mut terms.course.choices[0];
    choice.take(&terms.course.terms, "", &[infinite], None, false).unwrap_err();
}

#[test]
fn nothing_comes_twice_or_out_of_turn() {
    let mut early = waiting(None, None);
    early.course.admit().unwrap();
    early.letter(1).unwrap_err();
    let mut early = waiting(None, None);
    early.course.prefill(0, &mut early.shares).unwrap();
    early.letter(1).unwrap_err();
    assert!(early.course.prefill(0, &mut early.shares).is_err());
    let mut twice = waiting(None, None);
    twice.course.admit().unwrap();
    assert!(twice.course.admit().is_err());
    let mut over = scene(None);
    over.hear(&chunk(0, "x", vec![token(1, "x", 1)], Some(Finish::Stop))).unwrap();
    over.letter(2).unwrap_err();
}

#[test]
fn a_reused_prompt_is_within_its_own() {
    let prefill = |reuse: Option<[u8; 32]>, cached: u32| {
        let mut scene = waiting(None, reuse);
        scene.course.prefill(cached, &mut scene.shares)?;
        Ok::<_, Violation>(scene.account.input.lock().unwrap()[0])
    };
    assert_eq!(prefill(Some([1; 32]), 4).unwrap(), (1, 4));
    assert!(prefill(Some([1; 32]), 6).is_err());
    assert_eq!(prefill(None, 0).unwrap(), (5, 0));
    assert!(prefill(None, 1).is_err());
}

#[tokio::test]
async fn tokens_come_sixteen_ahead_of_their_reader_at_most() {
    let mut scene = scene(None);
    for at in 1..=16 {
        scene.letter(at).unwrap();
    }
    assert!(scene.said().is_empty());
    assert!(!scene.course.choices[0].goes_on());
    // Read, but not told yet.
    assert_eq!(scene.read().await.tokens.len(), 16);
    assert!(scene.course.choices[0].goes_on());
    let mut told = Vec::new();
    assert!(!scene.course.say(1, |message| {
        told.push(message.clone());
        false
    }));
    assert_eq!(told, [ToWorker::Read { run: 1, tokens: vec![(0, 16)] }]);
    scene.letter(17).unwrap_err();
    let mut scene = self::scene(None);
    for at in 1..=16 {
        scene.letter(at).unwrap();
    }
    scene.read().await;
    assert_eq!(scene.said(), told, "said again until it is heard");
    for at in 17..=32 {
        scene.letter(at).unwrap();
    }
    scene.letter(33).unwrap_err();
}

#[tokio::test]
async fn no_choice_is_longer_than_asked_for() {
    let mut scene = scene(None);
    for at in 1..40 {
        scene.letter(at).unwrap();
        scene.read().await;
        scene.said();
    }
    let last = |finish| chunk(0, "x", vec![token(1, "x", 40)], finish);
    scene.hear(&last(None)).unwrap_err();
    let mut scene = self::scene(None);
    for at in 1..40 {
        scene.letter(at).unwrap();
        scene.read().await;
        scene.said();
    }
    scene.hear(&last(Some(Finish::Length))).unwrap();
    assert_eq!(*scene.account.output.lock().unwrap(), 40);
}

#[test]
fn what_is_not_read_is_bounded() {
    let mut scene = scene(Some(20));
    let long = "x".repeat(3000);
    let result = (1..=16).try_for_each(|at| {
        let top = (0..15).map(|id| TopToken { id, bytes: long.clone().into_bytes(), logprob: -1.0 }).collect();
        scene.hear(&chunk(0, "", vec![ChunkToken { top, ..token(1, "x", at) }], None))
    });
    assert_eq!(result, Err(Violation("more than may wait for its reader")));
}

#[tokio::test]
async fn a_choice_ends_when_its_reader_wants() {
    let mut scene = scene(None);
    scene.letter(1).unwrap();
    scene.reader.end_choice(0);
    scene.course.hear_reader(&mut scene.shares);
    assert_eq!(scene.said(), [ToWorker::EndChoice { run: 1, choice: 0 }]);
    assert!(scene.said().is_empty());
    assert!(scene.course.look(Instant::now()));
    assert!(!scene.course.look(Instant::now() + GRACE), "it goes on too long");
    scene.hear(&chunk(1, "", Vec::new(), Some(Finish::Cancelled))).unwrap_err();
    scene.hear(&chunk(0, "", Vec::new(), Some(Finish::Cancelled))).unwrap();
    assert!(scene.course.look(Instant::now() + GRACE));
}

#[tokio::test]
async fn a_cancelled_one_has_its_grace() {
    let mut scene = scene(None);
    scene.letter(1).unwrap();
    scene.reader.cancel();
    scene.course.hear_reader(&mut scene.shares);
    assert_eq!(scene.said(), [ToWorker::Cancel { run: 1 }]);
    // What was on its way is accepted, and charged.
    scene.letter(2).unwrap();
    assert_eq!(*scene.account.output.lock().unwrap(), 2);
    assert!(scene.course.look(Instant::now()));
    assert!(!scene.course.look(Instant::now() + GRACE));
    for choice in 0..2 {
        scene.hear(&chunk(choice, "", Vec::new(), Some(Finish::Cancelled))).unwrap();
    }
    assert!(scene.course.has_ended());
}

#[test]
fn one_that_is_cancelled_before_its_turn_owes_nothing() {
    let mut scene = waiting(None, None);
    scene.course.admit().unwrap();
    scene.reader.cancel();
    scene.course.hear_reader(&mut scene.shares);
    for choice in 0..2 {
        scene.hear(&chunk(choice, "", Vec::new(), Some(Finish::Cancelled))).unwrap();
    }
    assert!(scene.course.has_ended());
    assert!(scene.account.input.lock().unwrap().is_empty());
}

#[tokio::test]
async fn time_and_callers_end_it() {
    let mut scene = scene(None);
    scene.letter(1).unwrap();
    scene.cancel.cancel();
    assert!(scene.course.look(Instant::now()));
    assert_eq!(scene.said(), [ToWorker::Stop { run: 1 }]);
    assert_eq!(scene.read().await.text, "x");
    assert!(matches!(scene.reader.next().await, Err(GenerationError::Stopped)));
    assert!(!scene.course.look(Instant::now() + GRACE));
    scene.course.end(Some(GenerationError::Stopped), &mut scene.shares);
    assert!(scene.course.is_over() && scene.said().is_empty());

    let mut late = waiting(None, None);
    assert!(late.course.look(Instant::now() + Duration::from_secs(61)));
    assert!(matches!(late.answer.try_recv(), Ok(Err(GenerationError::Stopped))));
}

#[tokio::test]
async fn time_counts_while_it_runs_and_not_while_it_waits_for_its_reader() {
    let mut scene = scene(None);
    // The other choice is over: nothing but the first can run.
    scene.hear(&chunk(1, "x", vec![token(1, "x", 1)], Some(Finish::Stop))).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    for at in 1..=16 {
        scene.letter(at).unwrap();
    }
    let ran = *scene.account.ran.lock().unwrap();
    assert!(ran >= Duration::from_millis(20), "{ran:?}");
    std::thread::sleep(Duration::from_millis(50));
    scene.read().await;
    scene.read().await;
    scene.said();
    scene.letter(17).unwrap();
    let ran = *scene.account.ran.lock().unwrap() - ran;
    assert!(ran < Duration::from_millis(50), "it waited: {ran:?}");
}

/// Whatever a worker says, in numbers near the edges of what it may.
fn said() -> impl Strategy<Value = Chunk> {
    let token = (0..VOCAB + 2, prop::collection::vec(any::<u8>(), 0..4), 0..12_usize, any::<bool>());
    let finish =
        prop::option::weighted(0.2, prop::sample::select(vec![Finish::Stop, Finish::Length, Finish::Cancelled]));
    (0..4_u32, "[aü]{0,3}", prop::collection::vec(token, 0..3), finish).prop_map(|(choice, text, tokens, finish)| {
        let token = |(id, bytes, text_end, odd): (u32, Vec<u8>, usize, bool)| {
            let logprob = if odd { 0.0 } else { -0.0 };
            ChunkToken { id, bytes, text_end, logprob, top: Vec::new() }
        };
        chunk(choice, &text, tokens.into_iter().map(token).collect(), finish)
    })
}

proptest! {
    #[test]
    fn whatever_is_said_no_more_is_charged_than_was_held(
        all in prop::collection::vec((said(), 0..4_u8), 0..60), early in any::<bool>()
    ) {
        let mut scene = if early { waiting(None, None) } else { scene(None) };
        for (chunk, then) in all {
            let before = *scene.account.output.lock().unwrap();
            let tokens = u32::try_from(chunk.tokens.len()).unwrap();
            let heard = scene.hear(&chunk);
            let charged = *scene.account.output.lock().unwrap() - before;
            prop_assert_eq!(charged, if heard.is_ok() { tokens } else { 0 });
            if heard.is_err() {
                // The worker would be gone now.
                break;
            }
            match then {
                0 => scene.reader.cancel(),
                1 => scene.reader.end_choice(chunk.choice.min(1)),
                _ => scene.reader.read(chunk.choice, chunk.tokens.len()),
            }
            scene.course.hear_reader(&mut scene.shares);
            scene.said();
            prop_assert!(scene.course.unread() <= 2 * choice::UNREAD_BYTES_MAX);
        }
        prop_assert!(*scene.account.output.lock().unwrap() <= 80);
        scene.course.end(Some(GenerationError::Stopped), &mut scene.shares);
        prop_assert!(scene.course.is_over());
        prop_assert_eq!(Arc::strong_count(&scene.account), 1);
    }
}
