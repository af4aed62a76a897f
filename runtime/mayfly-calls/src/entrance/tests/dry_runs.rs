//! A call that is priced and not run.

use super::*;

/// The JSON of a dry run.
async fn dry(node: &Node, place: &Place, script: Script) -> serde_json::Value {
    let response = node.serve(Context { dry_run: true, ..place.call() }, "", script).await;
    assert_eq!((response.status().as_u16(), header(&response, "x-mayfly-cost")), (200, Some("0")));
    serde_json::from_str(&text(response).await).unwrap()
}

#[tokio::test]
async fn a_dry_run_prices_the_first_hold_and_charges_nothing() {
    let place =
        Place { tenant: cap("0.004"), key: limits(|limits| limits.tokens_per_minute = Some(100)), ..Place::default() };
    let node = Node::new();
    let expect = serde_json::json!({"dry_run": true,
        "lines": [{"meter": "output_tokens", "model": "tiny", "quantity": 3, "cost": "0.003"}],
        "cost": "0.003", "currency": "EUR", "admitted": true, "refusal": null});
    assert_eq!(dry(&node, &place, Script { tokens: 9, hold: 3, ..SCRIPT }).await, expect);
    let refused = dry(&node, &place, Script { tokens: 9, hold: 9, ..SCRIPT }).await;
    assert_eq!((&refused["admitted"], &refused["cost"]), (&false.into(), &"0.009".into()));
    assert!(refused["refusal"].as_str().unwrap().contains("spend"), "{refused}");
    let nothing = dry(&node, &place, Script { tokens: 0, ..SCRIPT }).await;
    assert_eq!((&nothing["lines"], &nothing["cost"]), (&serde_json::json!([]), &"0".into()));
    assert!(node.journal.rows().is_empty());
    // Nothing of it is left at any level: all of the cap can be spent.
    settled(&node).await;
    let all = node.serve(place.call(), "", Script { tokens: 4, hold: 4, status: 500, ..SCRIPT }).await;
    assert_eq!((all.status().as_u16(), header(&all, "x-ratelimit-remaining-tokens")), (500, Some("96")));
    settled(&node).await;
    node.assert_empty(&place.call());
}
