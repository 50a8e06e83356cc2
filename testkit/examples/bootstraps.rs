//! Checks that what was built for deployment runs: starts each function's `bootstrap`, on its own processor or an
//! emulator, behind the Runtime API, with a Redis cluster in which it has only the rights of template.yaml's cache
//! user.
//! ```text
//! cargo run --package testkit --example bootstraps -- .aws-sam/build template.yaml
//! ```
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that takes arguments"
)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use testkit::cluster::Cluster;
use testkit::events::{Event, chat, clear, session, set_state};
use testkit::rights::access_string;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};

const PASSWORD: &str = "of-a-test";
/// Where Debian puts the libraries of an arm64 machine.
const ARM64_LIBRARIES: &str = "/usr/aarch64-linux-gnu";

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let mut argument = |name: &str| {
        arguments
            .next()
            .unwrap_or_else(|| panic!("{name} is missing"))
    };
    let builds = argument("the directory of the builds");
    let template = argument("the template");
    let template = std::fs::read_to_string(&template).expect("a template");

    let cluster = Cluster::start().await;
    for user in [
        "Turns", "Stop", "Clear", "Session", "History", "Data", "Card", "Shelf",
    ] {
        let rights = access_string(&template, user);
        let password = format!(">{PASSWORD}");
        let mut command = vec!["ACL", "SETUSER", user, &password];
        command.extend(rights.split_whitespace());
        for port in cluster.masters().await {
            cluster.node(port).command::<String>(&command).await;
        }
    }
    let start = |logical_id: &str, user: &str| {
        function(&builds.join(logical_id).join("bootstrap"))
            .envs(cluster.env())
            .env("REDIS_USERNAME", user)
            .env("REDIS_PASSWORD", PASSWORD)
            // An emulator is slow, and whether the rights suffice is not a question of time.
            .env("MEMORY_READ_TIMEOUT_MS", "5000")
            .env("MEMORY_WRITE_TIMEOUT_MS", "5000")
            .env("JWT_SECRET", secret())
            .env("LLM_PROVIDER", "echo")
    };
    let token = token("alice");

    let began = Instant::now();
    let chats = start("ChatStreamFunction", "Turns").start().await;
    for turn in 0..2 {
        let answer = chats.invoke(&chat(&token, "luna", "你好")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let memory = if turn == 0 { "empty" } else { "ok" };
        assert_eq!(answer.start()["memory"], memory, "{}", chats.output());
        assert_eq!(answer.last()["saved"], true, "{}", chats.output());
        assert!(answer.chunks.len() > 2, "a stream comes in pieces");
    }
    println!("chat-stream remembers, after {:?}", began.elapsed());

    let began = Instant::now();
    let again = || {
        let body = json!({ "character_id": "luna", "message": "你好" });
        let event = Event::stream().token(&token).json(&body);
        event.header("idempotency-key", "once").http()
    };
    let first = chats.invoke(&again()).await;
    assert_eq!(first.start()["resumable"], true, "{}", chats.output());
    assert_eq!(first.last()["saved"], true, "{}", chats.output());
    let repeated = chats.invoke(&again()).await;
    assert_eq!(repeated.last(), first.last(), "{}", chats.output());
    let turn = first.last()["turn_id"].as_str().expect("text").to_owned();
    let of_turn = |event: Event| {
        let event = event.token(&token).query("character_id", "luna");
        event.query("turn_id", &turn).http()
    };
    let resumed = chats.invoke(&of_turn(Event::resume())).await;
    assert_eq!(resumed.reply(), first.reply(), "{}", chats.output());
    println!(
        "chat-stream resumes and repeats, after {:?}",
        began.elapsed()
    );

    let began = Instant::now();
    let stops = start("StopStreamFunction", "Stop").start().await;
    // It has ended, and no other one runs.
    for event in [
        of_turn(Event::stop()),
        Event::stop()
            .token(&token)
            .query("character_id", "luna")
            .http(),
    ] {
        let answer = stops.invoke(&event).await;
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
    println!(
        "stop-stream finds nothing to stop, after {:?}",
        began.elapsed()
    );

    let began = Instant::now();
    let sessions = start("SessionMetaFunction", "Session").start().await;
    for event in [
        session(&token, "luna"),
        set_state(&token, "luna", "INACTIVE"),
    ] {
        let answer = sessions.invoke(&event).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["stored_messages"], 6, "{}", answer.text());
    }
    let list = Event::get("/api/v1/chat/sessions").token(&token).http();
    let answer = sessions.invoke(&list).await;
    let listed = answer.json()["sessions"].as_array().map(Vec::len);
    assert_eq!(listed, Some(1), "{}", answer.text());
    println!("session-meta sees it, after {:?}", began.elapsed());

    let began = Instant::now();
    let histories = start("ReadHistoryFunction", "History").start().await;
    let read = Event::get("/api/v1/chat/history")
        .token(&token)
        .query("character_id", "luna");
    let answer = histories.invoke(&read.http()).await;
    let messages = answer.json()["messages"].clone();
    assert_eq!(messages.as_array().map(Vec::len), Some(6), "{messages}");
    println!("read-history reads it, after {:?}", began.elapsed());

    let began = Instant::now();
    let clears = start("ClearHistoryFunction", "Clear").start().await;
    let rewind = Event::clear()
        .token(&token)
        .query("character_id", "luna")
        .query("from", messages[4]["msg_id"].as_str().expect("text"));
    let answer = clears.invoke(&rewind.http()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = clears.invoke(&clear(&token, "luna")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = sessions.invoke(&session(&token, "luna")).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    println!("clear-history forgets it, after {:?}", began.elapsed());

    let began = Instant::now();
    let again = chats.invoke(&chat(&token, "luna", "你好")).await;
    assert_eq!(again.last()["saved"], true, "{}", chats.output());
    let data = start("UserDataFunction", "Data").start().await;
    let of_data = |method| Event::new(method, "/api/v1/chat/data").token(&token).http();
    let answer = data.invoke(&of_data("GET")).await;
    assert!(
        answer.text().contains(r#""type":"end""#),
        "{}",
        answer.text()
    );
    let answer = data.invoke(&of_data("DELETE")).await;
    assert_eq!(answer.json()["erased"]["sessions"], 1, "{}", answer.text());
    println!(
        "user-data exports and erases it, after {:?}",
        began.elapsed()
    );

    let began = Instant::now();
    let shelf = start("PutCharacterFunction", "Shelf").start().await;
    let put = json!({ "action": "put", "character_id": "mira", "card": {
        "spec": "chara_card_v2",
        "spec_version": "2.0",
        "data": { "name": "Mira", "first_mes": "The kettle is on." },
    }});
    let answer = shelf.invoke_direct(&put).await;
    assert_eq!(answer["greetings"], 1, "{answer}");
    let of_mira = |action: &str| json!({ "action": action, "character_id": "mira" });
    let answer = shelf.invoke_direct(&of_mira("get")).await;
    assert_eq!(answer["card"], put["card"], "{answer}");
    let list = json!({ "action": "list" });
    let answer = shelf.invoke_direct(&list).await;
    assert_eq!(answer["characters"], json!(["mira"]), "{answer}");
    println!("put-character stores a card, after {:?}", began.elapsed());

    let began = Instant::now();
    let characters = start("ReadCharacterFunction", "Card").start().await;
    let of_mira_by = |path: &str| {
        let event = Event::get(path).token(&token);
        event.query("character_id", "mira").http()
    };
    let answer = characters
        .invoke(&of_mira_by("/api/v1/chat/character"))
        .await;
    assert_eq!(answer.json()["name"], "Mira", "{}", answer.text());
    let answer = histories.invoke(&of_mira_by("/api/v1/chat/history")).await;
    assert_eq!(
        answer.json()["greeting"],
        "The kettle is on.",
        "{}",
        answer.text()
    );
    let answer = shelf.invoke_direct(&of_mira("delete")).await;
    assert_eq!(answer["deleted"], true, "{answer}");
    println!("read-character shows it, after {:?}", began.elapsed());
}

/// The function, by an emulator where this machine's processor is another.
fn function(bootstrap: &Path) -> FunctionBuilder {
    let builder = Function::builder_of(bootstrap.to_owned());
    match machine(bootstrap) {
        architecture if architecture == std::env::consts::ARCH => builder,
        "aarch64" => builder.runner(&["qemu-aarch64", "-L", ARM64_LIBRARIES]),
        other => panic!("{}: no emulator for {other}", bootstrap.display()),
    }
}

/// The processor that an ELF file is for.
fn machine(file: &Path) -> &'static str {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{error}: {}", file.display()));
    assert_eq!(bytes[..4], *b"\x7fELF", "{}", file.display());
    match (bytes[18], bytes[19]) {
        (0x3e, 0) => "x86_64",
        (0xb7, 0) => "aarch64",
        other => panic!("{}: made for {other:?}", file.display()),
    }
}
