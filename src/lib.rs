pub mod command;
pub mod event;
pub mod message;
pub mod outcome;
pub mod pipeline;
pub mod retry;
pub mod snap;
pub mod verdict;
