//! Gives parked commands to the workers again: each copy is confirmed before the parked one is taken out.

use super::{
    Which, commands,
    counts::Counts,
    print_all,
    queue::{Copy, Hold, Queue},
    some_of,
    table::Table,
};
use crate::{
    amqp::{headers, outbox::in_bucket},
    cli::{Failure, broker::Broker, progress::Progress, tell},
    message::Message,
    parked::replayed,
    retry::{self, SHORTEST},
};
use chrono::{DateTime, Utc};
use lapin::{
    Confirmation, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use std::collections::VecDeque;

/// Confirms that may be outstanding.
const WINDOW: usize = 200;

pub async fn run(
    broker: &Broker,
    mut queue: Queue<'_>,
    which: &Which,
    not_after: Option<DateTime<Utc>>,
    dry_run: bool,
) -> Result<(), Failure> {
    broker.within(broker.channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let mut replay =
        Replay { broker, unconfirmed: VecDeque::new(), replayed: 0, refused: 0, progress: Progress::new() };
    let (mut meant, mut spared, mut left) = (0, 0, Counts::default());
    let mut would_be = Table::default();
    let ended = async {
        while let Some(Copy { parked, message, hold }) = queue.next().await? {
            replay.tell_progress(&queue);
            if !which.means(&parked) {
                continue;
            }
            if which.spares(&parked) {
                spared += 1;
                continue;
            }
            meant += 1;
            if !broker.accounts.is_empty() && !broker.accounts.contains(&parked.account) {
                left.add(format!("the settings have no account {:?}", parked.account));
                continue;
            }
            match replayed(&message, not_after) {
                Ok(_) if dry_run => {
                    if !print_all(&would_be.add(&parked))? {
                        queue.enough();
                    }
                }
                Ok(progress) => replay.one(&mut queue, &message, &progress, hold).await?,
                Err(why) => left.add(why),
            }
        }
        replay.settle(&mut queue, 0).await
    }
    .await;
    if dry_run {
        print_all(&would_be.end("would be replayed"))?;
    } else {
        tell(format_args!("{} replayed", commands(replay.replayed)));
    }
    if spared > 0 {
        tell(format_args!(
            "{} left, as each wants a look first: see parked list; --cause or --job replays it",
            commands(spared)
        ));
    }
    if replay.refused > 0 {
        let why = "the broker refused its copy (does a policy limit the retry buckets?)";
        tell(format_args!("{} left: {why}", commands(replay.refused)));
    }
    for (why, count) in left.iter() {
        tell(format_args!("{} left: {why}", commands(count)));
    }
    let given_back = queue.give_back().await;
    ended?;
    given_back?;
    if left.is_empty() && replay.refused == 0 {
        some_of(meant)
    } else {
        Err(Failure::No("not all of them could be replayed".into()))
    }
}

/// Publishes copies, and takes each parked one out when its copy is confirmed.
struct Replay<'a> {
    broker: &'a Broker,
    unconfirmed: VecDeque<(PublisherConfirm, Hold)>,
    replayed: u64,
    refused: u64,
    progress: Progress,
}

impl Replay<'_> {
    async fn one(
        &mut self,
        queue: &mut Queue<'_>,
        message: &Message,
        progress: &retry::Progress,
        hold: Hold,
    ) -> Result<(), Failure> {
        // Through a bucket, because what the workers believe comes out of one.
        let ours = headers::of_progress(progress);
        let (bucket, properties) = in_bucket(&self.broker.names, SHORTEST, &message.properties, ours);
        let (channel, key) = (&self.broker.channel, message.routing_key.as_str().into());
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(bucket.into(), key, options, &message.body, properties);
        let sent = self.broker.within(sent).await?;
        self.unconfirmed.push_back((sent, hold));
        self.settle(queue, WINDOW).await
    }

    /// Waits for confirms until no more than so many are outstanding.
    async fn settle(&mut self, queue: &mut Queue<'_>, outstanding: usize) -> Result<(), Failure> {
        while self.unconfirmed.len() > outstanding
            && let Some((sent, hold)) = self.unconfirmed.pop_front()
        {
            // The others are on their way, so that a refusal ends nothing.
            if !matches!(self.broker.within(sent).await?, Confirmation::Ack(_)) {
                self.refused += 1;
                continue;
            }
            queue.take_out(hold).await?;
            self.replayed += 1;
            self.tell_progress(queue);
        }
        Ok(())
    }

    fn tell_progress(&mut self, queue: &Queue<'_>) {
        self.progress.tell(|| format!("{} replayed, {} to be looked at", self.replayed, queue.left()));
    }
}
