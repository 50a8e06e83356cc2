//! What a client is told at the beginning and at the end of a turn, as JSON, whatever the encoding of the stream.

use serde::Serialize;

use crate::chat::{FailureCode, MemoryStatus, Reply, Unsaved};

/// Public text of every failure of a turn.
pub(super) const FAILED: &str = "服务暂时不可用，请稍后重试";

/// What is known when the turn has begun.
#[derive(Serialize)]
pub(super) struct Start<'a> {
    turn_id: &'a str,
    memory: &'static str,
    history_messages: usize,
    resumable: bool,
}

impl<'a> Start<'a> {
    pub(super) fn new(
        turn_id: &'a str,
        memory: MemoryStatus,
        history_messages: usize,
        resumable: bool,
    ) -> Self {
        Self {
            turn_id,
            memory: memory.as_str(),
            history_messages,
            resumable,
        }
    }
}

/// How a complete reply ended.
#[derive(Serialize)]
pub(super) struct Ended<'a> {
    turn_id: &'a str,
    msg_id: &'a str,
    user_msg_id: &'a str,
    finish_reason: &'static str,
    saved: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsaved: Option<&'static str>,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl<'a> Ended<'a> {
    pub(super) fn new(turn_id: &'a str, reply: &'a Reply, unsaved: Option<Unsaved>) -> Self {
        Self {
            turn_id,
            msg_id: &reply.msg_id,
            user_msg_id: &reply.user_msg_id,
            finish_reason: reply.finish_reason.as_str(),
            saved: unsaved.is_none(),
            unsaved: unsaved.map(Unsaved::as_str),
            usage: Usage {
                prompt_tokens: reply.usage.prompt_tokens,
                completion_tokens: reply.usage.completion_tokens,
            },
        }
    }
}

/// How a turn failed.
#[derive(Serialize)]
pub(super) struct Failed<'a> {
    error: &'static str,
    code: &'static str,
    turn_id: &'a str,
    saved: bool,
}

impl<'a> Failed<'a> {
    pub(super) fn new(turn_id: &'a str, code: FailureCode, saved: bool) -> Self {
        Self {
            error: FAILED,
            code: code.as_str(),
            turn_id,
            saved,
        }
    }
}
