//! `mayfly:inference`: what was granted, many runs in one call, the tokenizer's refusals.

use super::account::Event;
use super::guest::Request;

/// Three runs at 4096, of two inputs each; the second one's `x` has `len` elements.
fn many(len: u32) -> String {
    let mut body = String::new();
    for run in 0..3_u32 {
        let len = if run == 1 { len } else { 1 };
        body.push_str(&format!(
            "(call $input (i32.const {first}) (i32.const 4) (call $vector (i32.const {len}) (i32.const 4)))
             (call $input (i32.const {second}) (i32.const 8) (call $vector (i32.const 1) (i32.const 4)))
             (i32.store (i32.const {at}) (i32.const {list}))
             (i32.store (i32.const {count}) (i32.const 2))",
            first = 2 * run,
            second = 2 * run + 1,
            at = 4096 + 8 * run,
            count = 4100 + 8 * run,
            list = 3072 + 24 * run,
        ));
    }
    body.push_str(
        "(call $run_many (i32.const 0) (i32.const 1) (i32.const 4096) (i32.const 3) (i32.const 1040))
         (if (result i32) (i32.load8_u (i32.const 1040))
            (then (call $fail (i32.load (i32.const 1044))))
            ;; The first output of the last run.
            (else (call $answer (i32.load offset=8 (i32.load offset=16 (i32.load (i32.const 1044)))))))",
    );
    body
}

#[tokio::test]
async fn many_runs_are_held_together_and_charged_one_by_one() {
    let request = Request::new();
    let answer = request.run(&many(1)).await;
    assert_eq!(answer.result.unwrap(), (0, vec![0, 0, 0x40, 0x40]));
    assert_eq!(answer.live_bytes, 12, "three outputs");
    let events = request.account.events();
    let [Event::Held(held), Event::Charged(a), Event::Charged(b), Event::Charged(c), Event::Released] =
        events.as_slice()
    else {
        panic!("{events:?}");
    };
    let sum: u64 = [a, b, c].into_iter().flatten().map(|(_, quantity)| quantity).sum();
    assert_eq!(held.iter().map(|(_, quantity)| quantity).sum::<u64>(), sum);
}

#[tokio::test]
async fn one_bad_run_stops_all_of_them() {
    let request = Request::new();
    let answer = request.run(&many(5)).await;
    let (status, text) = answer.text();
    assert_eq!(status, 100, "{text}");
    assert!(text.contains("input `x`"), "{text}");
    assert_eq!(answer.live_bytes, 0);
    assert!(request.account.events().is_empty());
}

#[tokio::test]
async fn granted_models_are_listed_and_described() {
    // granted: the first alias; describe: the digest.
    let request = Request::new();
    let granted = "(call $granted (i32.const 1040)) (i32.store (i32.const 1024) (i32.load (i32.const 1044)))
        (i64.store (i32.const 1028) (i64.load (i32.load (i32.const 1040)))) (i32.const 1024)";
    assert_eq!(request.run(granted).await.text(), (1, "m".to_owned()));
    let describe = "(call $describe (i32.const 0) (i32.const 1) (i32.const 5120))
        (i32.store (i32.const 1024) (i32.load8_u (i32.const 5120)))
        (i64.store (i32.const 1028) (i64.load (i32.const 5140))) (i32.const 1024)";
    let digest = request.grants.models.values().next().unwrap().package.digest().to_string();
    assert_eq!(request.run(describe).await.text(), (0, digest));
    let unknown = "(call $describe (i32.const 12) (i32.const 13) (i32.const 5120))
        (call $fail (i32.load (i32.const 5124)))";
    assert_eq!(request.run(unknown).await.text().0, 106);
}

#[tokio::test]
async fn a_model_without_a_tokenizer_says_so() {
    // One text, `x`.
    let count = |alias: u32, len: u32| {
        format!(
            "(i32.store (i32.const 4096) (i32.const 4)) (i32.store (i32.const 4100) (i32.const 1))
             (call $count (i32.const {alias}) (i32.const {len}) (i32.const 4096) (i32.const 1) (i32.const 1040))
             (call $fail (i32.load (i32.const 1044)))"
        )
    };
    let request = Request::new();
    assert_eq!(request.run(&count(0, 1)).await.text(), (104, "this model has no tokenizer".to_owned()));
    assert_eq!(request.run(&count(12, 13)).await.text().0, 106);
    request.cancel.cancel();
    assert_eq!(request.run(&count(0, 1)).await.text().0, 103);
}
