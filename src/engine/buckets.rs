//! Buckets: names upstairs, transactions of the store.

use std::sync::Arc;

use super::Engine;
use super::EngineError;
use crate::model::Action;
use crate::model::Bucket;
use crate::model::BucketName;
use crate::store::BucketUsage;
use crate::store::BucketWishes;
use crate::store::StoreError;
use crate::store::WishError;

/// What became of the wish for a bucket.
#[derive(Clone, Debug)]
pub enum CreatedBucket {
    Made(Arc<Bucket>),
    /// It was there already, and is the asking key's own.
    Own(Arc<Bucket>),
}

/// Why a bucket's wishes were not taken.
#[derive(Debug, thiserror::Error)]
pub enum WishRefused {
    /// They contradict each other, or what is there to fulfil them.
    #[error("{0}")]
    Impossible(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<WishError> for WishRefused {
    fn from(err: WishError) -> WishRefused {
        match err {
            WishError::Impossible(why) => WishRefused::Impossible(why),
            WishError::Store(err) => WishRefused::Engine(err.into()),
        }
    }
}

impl Engine {
    pub fn bucket(&self, name: &str) -> Result<Arc<Bucket>, EngineError> {
        self.store.bucket(name).ok_or(EngineError::NoSuchBucket)
    }

    /// In the order of names.
    pub fn buckets(&self) -> Vec<Arc<Bucket>> {
        self.store.buckets()
    }

    /// Makes a bucket with the default wishes. `creator`, the id of the key that asks, is granted
    /// everything on it, in the same transaction and for as long as the bucket exists; asking
    /// again for what is its own is no error. `NoSuchAccessKey` when the key went meanwhile.
    pub async fn create_bucket(
        &self,
        name: BucketName,
        creator: Option<&str>,
    ) -> Result<CreatedBucket, EngineError> {
        let by = creator.map(str::to_owned);
        match self.store.bucket_create_with(name.clone(), BucketWishes::default(), by).await {
            Ok(bucket) => Ok(CreatedBucket::Made(bucket)),
            Err(WishError::Store(StoreError::BucketExists)) => self.own(&name, creator),
            Err(WishError::Store(err)) => Err(err.into()),
            Err(WishError::Impossible(_)) => Err(EngineError::Invalid("the defaults contradict")),
        }
    }

    /// The bucket, when `key` has all of it.
    fn own(&self, name: &BucketName, key: Option<&str>) -> Result<CreatedBucket, EngineError> {
        let key = key.and_then(|id| self.key(id));
        match key {
            Some(key) if key.grants.allow_bucket(name, Action::Admin) => {
                Ok(CreatedBucket::Own(self.bucket(name.as_str())?))
            }
            _ => Err(EngineError::BucketExists),
        }
    }

    /// Makes a bucket with wishes of its own, for the operator: nobody is granted anything.
    pub async fn create_bucket_with(
        &self,
        name: BucketName,
        wishes: BucketWishes,
    ) -> Result<Arc<Bucket>, WishRefused> {
        Ok(self.store.bucket_create_with(name, wishes, None).await?)
    }

    /// Changes what a bucket wishes for new objects; `Declared` when the configuration says it.
    pub async fn change_bucket(
        &self,
        name: BucketName,
        wishes: BucketWishes,
    ) -> Result<Arc<Bucket>, WishRefused> {
        Ok(self.store.bucket_change(name, wishes).await?)
    }

    pub async fn bucket_usage(&self, bucket: &Bucket) -> Result<BucketUsage, EngineError> {
        Ok(self.store.bucket_usage(bucket.id).await?)
    }

    /// Refused while the bucket has objects or uploads, or while the configuration declares it.
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), EngineError> {
        Ok(self.store.bucket_delete(name).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Fleet;
    use crate::base::Clock;
    use crate::base::Ids;
    use crate::engine::EngineSettings;
    use crate::engine::KeyChange;
    use crate::model::AccessKey;
    use crate::model::Grant;
    use crate::model::Grants;
    use crate::model::Placement;
    use crate::model::Routing;
    use crate::model::access::Actions;
    use crate::store::Declaration;
    use crate::store::Durability;
    use crate::store::Store;
    use crate::store::StoreSettings;

    fn engine(dir: &std::path::Path) -> Arc<Engine> {
        let clock = Clock::system();
        let ids = Arc::new(Ids::new(clock.clone()));
        let settings = StoreSettings {
            data_dir: dir.to_owned(),
            durability: Durability::ProcessExit,
            readers: 2,
            ballast: 0,
        };
        let store = Store::open(settings, clock.clone(), ids).unwrap();
        let settings = EngineSettings {
            blob_max: 1 << 20,
            same_device: true,
            tail_wait: std::time::Duration::ZERO,
            admission: crate::engine::AdmissionSettings::default(),
        };
        Engine::new(store, Fleet::default(), settings, 1 << 20, clock)
    }

    fn bucket(name: &str) -> BucketName {
        BucketName::new(name).unwrap()
    }

    fn declaration(keys: &[&AccessKey]) -> Declaration {
        Declaration {
            backends: Vec::new(),
            buckets: Vec::new(),
            keys: keys.iter().map(|key| (*key).clone()).collect(),
            default_placement: Placement {
                replicas: 1,
                min_replicas: 1,
                routing: Routing::Pack,
                require_distinct: vec![],
            },
        }
    }

    fn has_all(engine: &Engine, key: &str, name: &str) -> bool {
        let key = engine.key(key).unwrap();
        Action::ALL.iter().all(|&action| key.grants.allow_bucket(&bucket(name), action))
    }

    #[tokio::test]
    async fn the_creator_has_all_of_its_bucket_and_nobody_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path());
        let may = Grants { create_buckets: true, list: vec![] };
        let one = engine.create_key(may.clone()).await.unwrap().id;
        let two = engine.create_key(may).await.unwrap().id;
        let made = engine.create_bucket(bucket("mine"), Some(&one)).await.unwrap();
        assert!(matches!(made, CreatedBucket::Made(_)));
        assert!(has_all(&engine, &one, "mine") && !has_all(&engine, &two, "mine"));
        let again = engine.create_bucket(bucket("mine"), Some(&one)).await.unwrap();
        assert!(matches!(again, CreatedBucket::Own(_)));
        for other in [Some(two.as_str()), None] {
            let refused = engine.create_bucket(bucket("mine"), other).await;
            assert!(matches!(refused, Err(EngineError::BucketExists)));
        }
        // What it was given goes with the bucket: the name may be another's next.
        engine.delete_bucket(&bucket("mine")).await.unwrap();
        engine.create_bucket(bucket("mine"), Some(&two)).await.unwrap();
        assert!(!has_all(&engine, &one, "mine") && has_all(&engine, &two, "mine"));
        let gone = engine.create_bucket(bucket("other"), Some("nobody")).await;
        assert!(matches!(gone, Err(EngineError::NoSuchAccessKey)));
        assert!(engine.bucket("other").is_err());
        assert_eq!(engine.store.verify().await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_grants_of_a_creator_outlive_declarations_and_changes() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path());
        let grant = |name: &str| Grant {
            bucket: Some(bucket(name)),
            prefix: String::new(),
            actions: Actions::preset("read-only").unwrap(),
        };
        let declared = AccessKey {
            id: "DECLARED".into(),
            secret: "secret".into(),
            grants: Grants { create_buckets: true, list: vec![grant("files")] },
            declared: true,
        };
        engine.store.declare(declaration(&[&declared])).await.unwrap();
        engine.create_bucket(bucket("mine"), Some("DECLARED")).await.unwrap();
        let more = AccessKey {
            grants: Grants { create_buckets: true, list: vec![grant("files"), grant("more")] },
            ..declared.clone()
        };
        for key in [&more, &declared, &more] {
            engine.store.declare(declaration(&[key])).await.unwrap();
            assert!(has_all(&engine, "DECLARED", "mine"));
            let held = engine.key("DECLARED").unwrap().grants.list;
            assert_eq!(held.len(), key.grants.list.len() + 1);
        }
        engine.delete_bucket(&bucket("mine")).await.unwrap();
        assert_eq!(engine.key("DECLARED").unwrap().grants, more.grants);
        engine.store.declare(declaration(&[])).await.unwrap();
        assert!(engine.key("DECLARED").is_none());

        // An operator who adds a grant leaves it, and one who replaces them all takes it.
        let own = Grants { create_buckets: true, list: vec![] };
        let key = engine.create_key(own).await.unwrap();
        engine.create_bucket(bucket("own"), Some(&key.id)).await.unwrap();
        let add = KeyChange { more: vec![grant("files")], ..KeyChange::default() };
        let changed = engine.change_key(&key.id, add).await.unwrap();
        assert_eq!((changed.secret, changed.grants.list.len()), (key.secret, 2));
        assert!(has_all(&engine, &key.id, "own"));
        let only = KeyChange { grants: Some(vec![grant("files")]), ..KeyChange::default() };
        engine.change_key(&key.id, only).await.unwrap();
        assert!(!has_all(&engine, &key.id, "own"));
        let secret = KeyChange { new_secret: true, ..KeyChange::default() };
        let renewed = engine.change_key(&key.id, secret).await.unwrap();
        assert_eq!(engine.key(&key.id).unwrap().secret, renewed.secret);
    }
}
