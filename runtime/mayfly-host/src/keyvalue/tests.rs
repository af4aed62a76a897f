//! The interfaces on a store in memory: names, lengths, ends of calls, foreign errors.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::bindings::atomics::Host as _;
use super::bindings::batch::Host as _;
use super::bindings::store::{Host as _, HostBucket as _};
use super::*;

/// Answers at once, unless it is told to hang or to fail.
#[derive(Debug, Default)]
struct Memory {
    data: Mutex<BTreeMap<(DeploymentId, String), Vec<u8>>>,
    hangs: bool,
    fails: Option<KeyValueError>,
}

impl Memory {
    async fn begin(&self) -> Result<(), KeyValueError> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.fails.clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl KeyValue for Memory {
    async fn get_many(&self, of: DeploymentId, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        self.begin().await?;
        let data = self.data.lock().unwrap();
        Ok(keys.into_iter().map(|key| data.get(&(of, key)).cloned()).collect())
    }

    async fn set_many(
        &self,
        of: DeploymentId,
        entries: Vec<(String, Vec<u8>)>,
        _limits: KeyValueLimits,
    ) -> Result<(), KeyValueError> {
        self.begin().await?;
        self.data.lock().unwrap().extend(entries.into_iter().map(|(key, value)| ((of, key), value)));
        Ok(())
    }

    async fn delete_many(&self, of: DeploymentId, keys: Vec<String>) -> Result<(), KeyValueError> {
        self.begin().await?;
        let mut data = self.data.lock().unwrap();
        for key in keys {
            data.remove(&(of, key));
        }
        Ok(())
    }

    async fn exists(&self, of: DeploymentId, key: String) -> Result<bool, KeyValueError> {
        Ok(self.get(of, key).await?.is_some())
    }

    async fn list_keys(&self, of: DeploymentId, _: Option<u64>, _: u32) -> Result<KeyValuePage, KeyValueError> {
        self.begin().await?;
        let data = self.data.lock().unwrap();
        let keys = data.keys().filter(|(owner, _)| *owner == of).map(|(_, key)| key.clone()).collect();
        Ok(KeyValuePage { keys, cursor: None })
    }

    async fn increment(
        &self,
        of: DeploymentId,
        key: String,
        delta: u64,
        limits: KeyValueLimits,
    ) -> Result<u64, KeyValueError> {
        let old = self.get(of, key.clone()).await?.map_or(0, |value| value.len() as u64);
        self.set(of, key, vec![0; usize::try_from(old + delta).unwrap()], limits).await?;
        Ok(old + delta)
    }
}

struct Guest {
    table: ResourceTable,
    keyvalue: KeyValueState,
}

impl Guest {
    fn new(store: Memory) -> Self {
        let limits = KeyValueLimits { key_bytes_max: 4, value_bytes_max: 8, batch_keys_max: 2, ..Default::default() };
        let keyvalue = KeyValueState {
            store: Arc::new(store),
            deployment: DeploymentId::new(),
            limits,
            deadline: Instant::now() + Duration::from_secs(60),
            cancel: CancellationToken::new(),
        };
        Self { table: ResourceTable::new(), keyvalue }
    }

    fn view(&mut self) -> KeyValueView<'_> {
        KeyValueView { table: &mut self.table, keyvalue: &mut self.keyvalue }
    }

    /// A handle for one call: the generated code borrows them.
    fn bucket(&mut self) -> Resource<Bucket> {
        self.view().open("default".to_owned()).unwrap().unwrap()
    }

    async fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        let bucket = self.bucket();
        self.view().set(bucket, key.to_owned(), value.to_vec()).await.unwrap()
    }

    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let bucket = self.bucket();
        self.view().get(bucket, key.to_owned()).await.unwrap()
    }
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, Error>, part: &str) {
    match result {
        Err(Error::Other(text)) => assert!(text.contains(part), "`{part}` is not in: {text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_function_reaches_the_store() {
    let mut guest = Guest::new(Memory::default());
    guest.set("a", b"1").await.unwrap();
    assert_eq!(guest.get("a").await.unwrap().unwrap(), b"1");
    let bucket = guest.bucket();
    let keys = || vec!["a".to_owned(), "no".to_owned()];
    let many = guest.view().get_many(Resource::new_borrow(bucket.rep()), keys()).await.unwrap().unwrap();
    assert_eq!(many, [Some(("a".to_owned(), b"1".to_vec())), None]);
    let mut view = guest.view();
    view.set_many(Resource::new_borrow(bucket.rep()), vec![("b".to_owned(), vec![2])]).await.unwrap().unwrap();
    assert!(view.exists(Resource::new_borrow(bucket.rep()), "b".to_owned()).await.unwrap().unwrap());
    assert_eq!(view.increment(Resource::new_borrow(bucket.rep()), "c".to_owned(), 3).await.unwrap().unwrap(), 3);
    let listed = view.list_keys(Resource::new_borrow(bucket.rep()), None).await.unwrap().unwrap();
    assert_eq!((listed.keys.len(), listed.cursor), (3, None));
    view.delete_many(Resource::new_borrow(bucket.rep()), keys()).await.unwrap().unwrap();
    view.delete(Resource::new_borrow(bucket.rep()), "b".to_owned()).await.unwrap().unwrap();
    assert_eq!(view.list_keys(Resource::new_borrow(bucket.rep()), None).await.unwrap().unwrap().keys, ["c"]);
}

#[tokio::test]
async fn there_is_one_bucket() {
    let mut guest = Guest::new(Memory::default());
    for name in ["other", "Default", "../default"] {
        assert!(matches!(guest.view().open(name.to_owned()).unwrap(), Err(Error::NoSuchStore)), "{name}");
    }
    assert!(guest.view().open(String::new()).unwrap().is_ok());
    guest.table.set_max_capacity(1);
    says(guest.view().open(String::new()).unwrap(), "handles_max");
}

#[tokio::test]
async fn what_is_too_long_never_reaches_the_store() {
    let mut guest = Guest::new(Memory { hangs: true, ..Memory::default() });
    says(guest.get("12345").await, "key_bytes_max = 4");
    says(guest.set("1", &[0; 9]).await, "value_bytes_max = 8");
    let bucket = guest.bucket();
    let keys = vec![String::new(); 3];
    let answer = guest.view().get_many(Resource::new_borrow(bucket.rep()), keys).await.unwrap();
    says(answer, "batch_keys_max = 2");
    let entries = vec![("12345".to_owned(), Vec::new())];
    says(guest.view().set_many(Resource::new_borrow(bucket.rep()), entries).await.unwrap(), "key_bytes_max");
}

#[tokio::test]
async fn a_call_that_is_over_waits_for_nothing() {
    let mut guest = Guest::new(Memory { hangs: true, ..Memory::default() });
    guest.keyvalue.deadline = Instant::now() + Duration::from_millis(20);
    says(guest.get("a").await, "deadline_ms_max");
    guest.keyvalue.deadline = Instant::now() + Duration::from_secs(60);
    guest.keyvalue.cancel.cancel();
    says(guest.set("a", b"1").await, "the call is over");
}

#[tokio::test]
async fn errors_keep_our_trouble_to_ourselves() {
    let with = |error| Guest::new(Memory { fails: Some(error), ..Memory::default() });
    let mut guest = with(KeyValueError::Failed { detail: "/secret is full".to_owned() });
    says(guest.get("a").await, "the key-value store failed");
    let mut guest = with(KeyValueError::Full { limit: "keyvalue.keys_max = 2 keys".to_owned() });
    says(guest.set("a", b"1").await, "keyvalue.keys_max = 2 keys");
    let mut guest = with(KeyValueError::Gone);
    assert!(matches!(guest.get("a").await, Err(Error::NoSuchStore)));
}
