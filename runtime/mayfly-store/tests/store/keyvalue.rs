//! What guests keep: apart from each other, within limits, gone with the deployment, there after a restart.

use std::collections::BTreeMap;

use mayfly_host::{KeyValueError, KeyValueLimits};
use proptest::prelude::*;

use crate::world::World;

const LIMITS: KeyValueLimits =
    KeyValueLimits { keys_max: 3, key_bytes_max: 512, value_bytes_max: 65_536, bytes_max: 20, batch_keys_max: 64 };

async fn deployments(world: &World) -> (mayfly_registry::Deployment, mayfly_registry::Deployment) {
    let project = world.project("p").await;
    let one = world.deploy(&project, "one", b"bytes").await.unwrap().deployment;
    (one, world.deploy(&project, "two", b"bytes").await.unwrap().deployment)
}

fn entry(key: &str, value: &[u8]) -> (String, Vec<u8>) {
    (key.to_owned(), value.to_vec())
}

#[tokio::test]
async fn each_deployment_sees_its_own_and_deleting_forgets() {
    let world = World::new();
    let (one, two) = deployments(&world).await;
    let data = world.store.key_values();
    data.set(one.id, "k".to_owned(), b"v".to_vec(), LIMITS).await.unwrap();
    assert_eq!(data.get(one.id, "k".to_owned()).await.unwrap().unwrap(), b"v");
    assert!(data.exists(one.id, "k".to_owned()).await.unwrap());
    assert_eq!(data.get(two.id, "k".to_owned()).await.unwrap(), None);
    assert_eq!(data.list_keys(two.id, None, 10).await.unwrap().keys, Vec::<String>::new());
    data.delete(two.id, "k".to_owned()).await.unwrap();
    assert!(data.exists(one.id, "k".to_owned()).await.unwrap());

    world.control.delete(&one).await.unwrap();
    assert_eq!(data.get(one.id, "k".to_owned()).await.unwrap(), None);
    let late = data.set(one.id, "k".to_owned(), b"v".to_vec(), LIMITS).await;
    assert_eq!(late, Err(KeyValueError::Gone), "a call that still runs brings nothing back");
    data.delete(one.id, "k".to_owned()).await.unwrap();
}

#[tokio::test]
async fn limits_hold_over_keys_and_bytes_and_change_nothing() {
    let world = World::new();
    let (one, two) = deployments(&world).await;
    let data = world.store.key_values();
    let full = |result: Result<(), KeyValueError>, part: &str| match result {
        Err(KeyValueError::Full { limit }) => assert!(limit.contains(part), "{limit}"),
        other => panic!("{other:?}"),
    };
    let set = |key: &str, value: &[u8]| data.set(one.id, key.to_owned(), value.to_vec(), LIMITS);
    data.set_many(one.id, vec![entry("a", b"old"), entry("a", b"1"), entry("b", b"2")], LIMITS).await.unwrap();
    assert_eq!(data.get(one.id, "a".to_owned()).await.unwrap().unwrap(), b"1", "the later value stays");
    full(data.set_many(one.id, vec![entry("c", b""), entry("d", b"")], LIMITS).await, "keyvalue.keys_max = 3 keys");
    assert!(!data.exists(one.id, "c".to_owned()).await.unwrap(), "all or nothing");
    set("c", b"").await.unwrap();
    full(set("c", &[0; 16]).await, "keyvalue.bytes_max = 20 bytes");
    set("c", &[0; 15]).await.unwrap();
    full(set("a", b"12").await, "keyvalue.bytes_max");
    set("a", b"").await.unwrap();
    data.delete_many(one.id, vec!["c".to_owned(), "c".to_owned(), "no".to_owned()]).await.unwrap();
    set("d", &[0; 14]).await.unwrap();
    data.set(two.id, "x".to_owned(), vec![0; 19], LIMITS).await.unwrap();
}

#[tokio::test]
async fn counters_count_once_each() {
    let world = World::new();
    let (one, _) = deployments(&world).await;
    let data = world.store.key_values();
    let add = |key: &str, delta| data.increment(one.id, key.to_owned(), delta, LIMITS);
    let mut sums: Vec<_> =
        futures::future::join_all((0..50).map(|_| add("n", 2))).await.into_iter().map(Result::unwrap).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=50).map(|n| n * 2).collect::<Vec<u64>>());
    assert_eq!(data.get(one.id, "n".to_owned()).await.unwrap().unwrap(), b"100");
    assert_eq!(add("n", u64::MAX).await, Err(KeyValueError::Overflow));
    for odd in [&b"x"[..], b"", b"-1", b"\xff", b"1.5"] {
        data.set(one.id, "n".to_owned(), odd.to_vec(), LIMITS).await.unwrap();
        assert_eq!(add("n", 1).await, Err(KeyValueError::NotANumber), "{odd:?}");
    }
}

#[tokio::test]
async fn pages_give_each_key_once_while_others_come_and_go() {
    let world = World::new();
    let (one, _) = deployments(&world).await;
    let data = world.store.key_values();
    let limits = KeyValueLimits::default();
    for n in 0..10 {
        data.set(one.id, format!("k{n}"), Vec::new(), limits).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = data.list_keys(one.id, cursor, 3).await.unwrap();
        seen.extend(page.keys);
        data.delete(one.id, "k0".to_owned()).await.unwrap();
        data.set(one.id, "k1".to_owned(), b"again".to_vec(), limits).await.unwrap();
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..10).map(|n| format!("k{n}")).collect::<Vec<_>>());
    assert_eq!(data.list_keys(one.id, Some(u64::MAX), 3).await.unwrap(), Default::default());
}

#[tokio::test]
async fn data_survives_a_restart() {
    let world = World::new();
    let (one, _) = deployments(&world).await;
    let data = world.store.key_values();
    data.set(one.id, "k\0ü".to_owned(), vec![0, 255], LIMITS).await.unwrap();
    world.store.close().await;
    assert!(matches!(data.get(one.id, "k\0ü".to_owned()).await, Err(KeyValueError::Failed { .. })));
    let again = mayfly_store::Store::open(world.folder.path()).unwrap();
    assert_eq!(again.key_values().get(one.id, "k\0ü".to_owned()).await.unwrap().unwrap(), [0, 255]);
}

#[derive(Debug, Clone)]
enum Step {
    Set(Vec<(String, Vec<u8>)>),
    Delete(Vec<String>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = "[a-e]{1,2}";
    let set = prop::collection::vec((key, prop::collection::vec(any::<u8>(), 0..8)), 0..4).prop_map(Step::Set);
    let delete = prop::collection::vec(key, 0..3).prop_map(Step::Delete);
    prop::collection::vec(prop_oneof![2 => set, 1 => delete], 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Against a map that is counted anew each time.
    #[test]
    fn counted_as_a_map_is(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let (one, _) = deployments(&world).await;
            let data = world.store.key_values();
            let limits = KeyValueLimits { keys_max: 6, bytes_max: 40, ..KeyValueLimits::default() };
            let mut model = BTreeMap::new();
            let weigh = |map: &BTreeMap<String, Vec<u8>>| map.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
            for step in steps {
                match step {
                    Step::Set(entries) => {
                        let mut next = model.clone();
                        next.extend(entries.clone());
                        let over = (next.len() > 6 && next.len() > model.len())
                            || (weigh(&next) > 40 && weigh(&next) > weigh(&model));
                        let done = data.set_many(one.id, entries, limits).await;
                        assert_eq!(done.is_err(), over, "{done:?}");
                        if !over {
                            model = next;
                        }
                    }
                    Step::Delete(keys) => {
                        keys.iter().for_each(|key| drop(model.remove(key)));
                        data.delete_many(one.id, keys).await.unwrap();
                    }
                }
            }
            let mut keys = data.list_keys(one.id, None, 100).await.unwrap().keys;
            keys.sort();
            assert_eq!(keys, model.keys().cloned().collect::<Vec<_>>());
            let values = data.get_many(one.id, keys).await.unwrap();
            assert_eq!(values, model.into_values().map(Some).collect::<Vec<_>>());
        });
    }
}
