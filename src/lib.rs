//! qris-cancel-worker cancels unpaid QRIS payments. It takes cancel commands from RabbitMQ, sends each as a signed SNAP
//! request to a payment provider, and publishes what became of it to a reply exchange.
//!
//! One command's life is one story, told in [`pipeline`]:
//!
//! 1. bytes come in, as a [`message`] that says what it carries of earlier attempts;
//! 2. they become a [`command`], or a rejection that names every faulty field;
//! 3. the command becomes a signed request ([`snap::request`], [`snap::sign`]) in the provider's dialect
//!    ([`snap::profile`], with the built-in ones in `snap/profiles/`);
//! 4. [`account`] lets it out, at the account's pace, and [`snap::client`] sends it, and repeats nothing by itself;
//! 5. the reply, or its absence, gets exactly one [`verdict`];
//! 6. where that leaves it open whether the QR is cancelled, a query settles it;
//! 7. what is settled ends in an [`outcome`], told by an [`event`]; what needs a person is [`parked`], too;
//! 8. what is not waits in a queue of the broker, as long as [`retry`] says;
//! 9. the broker confirms the event, or the retry ([`amqp::outbox`]);
//! 10. the command is acknowledged ([`amqp::consumer`]), and forgotten here.
//!
//! The broker holds all state, in the queues that [`amqp::topology`] lists, so a worker can die at any moment. How much of a
//! queue is taken at a time, or whether an account rests, says its [`account::gate`] with its [`breaker`].
//!
//! # Invariants
//!
//! 1. Only `amqp/consumer.rs` acknowledges commands, and only after the pipeline returned `Ok`; while no worker runs,
//!    `amqp/topology/upgrade.rs` those that it has moved.
//! 2. `breaker`, `command`, `event`, `message`, `outcome`, `parked`, `retry`, `schema`, `verdict`, `traces/parent` and
//!    `snap/{request,sign,response,compare}` do no I/O, read no clock and draw no random number: time and chance come in as arguments.
//! 3. The bytes that are hashed are the bytes that are sent; a body is serialised once.
//! 4. Each delivery ends in exactly one of: finished (parked or not), scheduled, handed back unbegun, left unacknowledged.
//! 5. Labels come from enums and the settings; ids go to logs and events only. Secrets have no `Debug` or `Display`.
//! 6. Every wait has a limit. One for the broker or a provider stands in the settings.

// What a command is and what can be said of it.
pub mod command;
pub mod message;
pub mod outcome;
// How the provider is asked, and what its answers mean.
pub mod snap;
pub mod verdict;
// What follows.
pub mod event;
pub mod parked;
pub mod retry;
// The story.
pub mod pipeline;
// One account and its provider, the broker, and the worker that has them.
pub mod account;
pub mod amqp;
pub mod breaker;
pub mod worker;
// What surrounds it: settings, numbers, pages for operators, the system's limits, log, traces, service manager, stop, pauses.
pub mod admin;
pub mod limits;
pub mod metrics;
pub mod pauses;
pub mod service;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod traces;
// A provider to try things with, what others can hold their programs against, and the command line.
pub mod cli;
pub mod sandbox;
pub mod schema;
