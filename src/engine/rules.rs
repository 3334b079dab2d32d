//! The lifecycle rules of a bucket: read, changed and taken away, by whatever side it comes.
//!
//! A change wakes whoever goes by the rules.

use super::Engine;
use super::EngineError;
use super::WishRefused;
use crate::model::Lifecycle;
use crate::model::Rule;
use crate::store::BucketLifecycle;

impl Engine {
    /// `None` when the bucket has no rule.
    pub async fn lifecycle(&self, bucket: &str) -> Result<Option<BucketLifecycle>, EngineError> {
        let bucket = self.bucket(bucket)?;
        Ok(self.store.lifecycle(bucket.id).await?)
    }

    /// Replaces all rules; `Declared` when the configuration says them. Objects that are due by
    /// the new ones already go as soon as the worker looks.
    pub async fn put_lifecycle(&self, bucket: &str, rules: Lifecycle) -> Result<(), WishRefused> {
        self.change_lifecycle(bucket, |_| Ok(rules)).await?;
        Ok(())
    }

    /// Adds a rule. One that has the id of another is refused.
    pub async fn add_rule(&self, bucket: &str, rule: Rule) -> Result<BucketLifecycle, WishRefused> {
        let add = |mut rules: Vec<Rule>| {
            rules.push(rule);
            Lifecycle::new(rules).map_err(|why| why.to_string())
        };
        self.change_lifecycle(bucket, add).await
    }

    /// Takes the rule with this id away.
    pub async fn delete_rule(
        &self,
        bucket: &str,
        id: String,
    ) -> Result<BucketLifecycle, WishRefused> {
        let delete = move |mut rules: Vec<Rule>| {
            let before = rules.len();
            rules.retain(|rule| rule.says().id != id);
            match rules.len() < before {
                true => Lifecycle::new(rules).map_err(|why| why.to_string()),
                false => Err(format!("there is no rule `{id}`")),
            }
        };
        self.change_lifecycle(bucket, delete).await
    }

    /// Takes all rules away; `Declared` when the configuration says them. May be repeated.
    pub async fn delete_lifecycle(&self, bucket: &str) -> Result<(), EngineError> {
        let bucket = self.bucket(bucket)?;
        self.store.lifecycle_delete(bucket.name.clone()).await?;
        self.rules_changed().notify_one();
        Ok(())
    }

    async fn change_lifecycle<F>(
        &self,
        bucket: &str,
        change: F,
    ) -> Result<BucketLifecycle, WishRefused>
    where
        F: FnOnce(Vec<Rule>) -> Result<Lifecycle, String> + Send + 'static,
    {
        let bucket = self.bucket(bucket)?;
        let changed = self.store.lifecycle_change(bucket.name.clone(), change).await?;
        self.rules_changed().notify_one();
        Ok(changed)
    }
}
