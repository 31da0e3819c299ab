//! Transactions in hand: no two commands of one transaction are worked on at the same time in this worker.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// The transactions of one account that somebody works on.
#[derive(Default)]
pub struct Claims {
    held: Mutex<HashSet<String>>,
    released: Notify,
}

/// A transaction in hand, until this is dropped.
pub struct Claim {
    claims: Arc<Claims>,
    names: Vec<String>,
}

impl Claims {
    /// Takes a transaction in hand by all the names that it has, waiting while another has it under one of them; `None` when
    /// that took longer than the limit.
    pub async fn claim(self: &Arc<Self>, names: Vec<String>, limit: Duration) -> Option<Claim> {
        let waiting = async {
            loop {
                let released = self.released.notified();
                tokio::pin!(released);
                released.as_mut().enable();
                if self.take(&names) {
                    return;
                }
                released.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.ok()?;
        Some(Claim { claims: self.clone(), names })
    }

    fn take(&self, names: &[String]) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let free = !names.iter().any(|name| held.contains(name));
        if free {
            held.extend(names.iter().cloned());
        }
        free
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.held.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            held.remove(name);
        }
        drop(held);
        self.claims.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_under_any_of_its_names() {
        let claims = Arc::new(Claims::default());
        let limit = Duration::from_secs(30);
        let first = claims.claim(names(&["R1", "P1"]), limit).await.unwrap();
        assert!(claims.claim(names(&["R2", "P2"]), limit).await.is_some());
        assert!(claims.claim(names(&["P1"]), limit).await.is_none(), "held for ever");
        let release = async {
            tokio::time::sleep(limit / 2).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(claims.claim(names(&["R1"]), limit), release);
        assert!(second.is_some());
        assert!(claims.claim(names(&["P1"]), limit).await.is_some(), "the second has no such name");
    }
}
