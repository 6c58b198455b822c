//! Models by their names on the hub.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::hub_server::{COMMIT, HubServer};
use crate::support::{Ran, TestFolder};

/// The model that the hub has.
const NAME: &str = "an-owner/mamba-0.1m";

/// A tiny model with a tokenizer.
fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eval")
}

/// A hub with that model, and more files than are read.
fn hub() -> HubServer {
    let server = HubServer::start();
    {
        let mut state = server.state();
        let files = state.models.entry(NAME.into()).or_default();
        for file in [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "model.safetensors",
        ] {
            files.insert(file.into(), fs::read(model().join(file)).unwrap());
        }
        for file in [
            "README.md",
            "pytorch_model.bin",
            "merges.txt",
            "vocab.json",
            "flax_model.msgpack",
        ] {
            files.insert(file.into(), b"unread".to_vec());
        }
    }
    server
}

/// The command, asking that hub.
fn command(place: &TestFolder, url: &str, args: &[&str]) -> Command {
    at_the_hub(place, url, place.command(args))
}

fn at_the_hub(place: &TestFolder, url: &str, mut command: Command) -> Command {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", place.path("home"));
    command.env("HF_ENDPOINT", url);
    command
}

fn ran(args: &[&str], mut command: Command) -> Ran {
    Ran::new(args, command.output().expect("the command starts"))
}

/// The text that a model writes.
fn generate<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let options = ["--prompt", "the ", "--tokens", "8", "--device", "cpu"];
    [&["generate", "--model", model][..], &options, more].concat()
}

/// Runs `generate` of the hub's model.
fn run(place: &TestFolder, url: &str, more: &[&str]) -> Ran {
    let args = generate(NAME, more);
    ran(&args, command(place, url, &args))
}

/// A model's folder in the cache.
fn cached(place: &TestFolder) -> PathBuf {
    place.path("home/hub/models--an-owner--mamba-0.1m")
}

/// What was asked for whole, or from some byte on: the file's names.
fn fetched(server: &HubServer) -> Vec<String> {
    let mut names: Vec<String> = server
        .asked()
        .iter()
        .filter(|asked| asked.ends_with('-'))
        .filter_map(|asked| Some(asked.split(' ').next()?.rsplit('/').next()?.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_model_on_the_hub_is_fetched_once_and_then_found_without_it() {
    let place = TestFolder::new();
    let server = hub();
    let local = place
        .run(&generate(model().to_str().unwrap(), &[]))
        .succeeds();

    let first = run(&place, &server.url, &[]).succeeds();
    assert_eq!(first.stdout, local.stdout);
    assert!(
        first
            .stderr
            .contains("fetching model.safetensors, 24,096 bytes\n"),
        "{}",
        first.stderr
    );
    let needed = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(fetched(&server), needed);
    // As other programs keep it.
    let kept = fs::read_to_string(cached(&place).join("refs/main")).unwrap();
    assert_eq!(kept, COMMIT);
    let snapshot = cached(&place).join("snapshots").join(COMMIT);
    assert_eq!(fs::read_dir(&snapshot).unwrap().count(), needed.len());
    assert!(
        cached(&place)
            .join("blobs/24096-model.safetensors")
            .is_file()
    );

    // A later commit, with another file of its own.
    {
        let mut state = server.state();
        state.commit = COMMIT.replace('0', "f");
        let files = state.models.get_mut(NAME).unwrap();
        files.insert("generation_config.json".into(), b"{ }".to_vec());
    }
    let second = run(&place, &server.url, &[]).succeeds();
    assert_eq!(second.stdout, local.stdout);
    assert_eq!(fetched(&server), ["generation_config.json"]);

    let url = server.url.clone();
    drop(server);
    let unanswered = run(&place, &url, &[]).succeeds();
    assert_eq!(unanswered.stdout, local.stdout);
    let said = "the hub does not answer: what the cache has of it is taken";
    assert!(unanswered.stderr.contains(said), "{}", unanswered.stderr);
    let offline = run(&place, &url, &["--offline"]).succeeds();
    assert_eq!(offline.stdout, local.stdout);
    let of_commit = run(&place, &url, &["--offline", "--revision", COMMIT]);
    assert_eq!(of_commit.succeeds().stdout, local.stdout);
    let args = generate(NAME, &[]);
    let mut said = command(&place, &url, &args);
    said.env("HF_HUB_OFFLINE", "1");
    assert_eq!(ran(&args, said).succeeds().stdout, local.stdout);
}

#[test]
fn every_command_takes_the_name_of_a_model_and_tokenize_that_of_a_tokenizer() {
    let place = TestFolder::new();
    let server = hub();
    place.text();
    let go = |args: &[&str]| ran(args, command(&place, &server.url, args)).succeeds();
    go(&[
        "tokenize",
        "text.txt",
        "--tokenizer",
        NAME,
        "--out",
        "tokens",
    ]);
    let named = fetched(&server);
    assert_eq!(
        named,
        ["config.json", "generation_config.json", "tokenizer.json"]
    );

    go(&["inspect", "--model", NAME, "--prompt", "the snake"]);
    assert_eq!(fetched(&server), ["model.safetensors"]);
    go(&[
        "eval",
        NAME,
        "perplexity",
        "--data",
        "tokens",
        "--device",
        "cpu",
    ]);
    go(&["convert", NAME, "a.gguf"]);
    assert!(fetched(&server).is_empty());

    // One file of a model that has several.
    let files = [(
        "a.Q8_0.gguf".to_owned(),
        fs::read(place.path("a.gguf")).unwrap(),
    )];
    server.state().models.insert("b/c".into(), files.into());
    let of_file = go(&generate("b/c/a.Q8_0.gguf", &[]));
    assert_eq!(
        of_file.stdout,
        run(&place, &server.url, &[]).succeeds().stdout
    );
    let whole = generate("b/c", &[]);
    ran(&whole, command(&place, &server.url, &whole))
        .is_refused(1, &["b/c: ", "no config.json", "FILE.gguf"]);

    // Its tokenizer by a name, though the model has none.
    fs::create_dir(place.path("bare")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(model().join(file), place.path("bare").join(file)).unwrap();
    }
    let bare = go(&generate("bare", &["--tokenizer", NAME]));
    assert_eq!(bare.stdout, of_file.stdout);
}

#[test]
fn weights_in_several_files_are_fetched_and_no_file_outside_the_folder() {
    let place = TestFolder::new();
    let server = hub();
    let shard = |name: &str| {
        let mut state = server.state();
        let files = state.models.get_mut(NAME).unwrap();
        let whole = files.remove("model.safetensors").unwrap_or_default();
        let map = serde_json::json!({ "weight_map": { "a": name, "b": name } });
        files.insert(
            "model.safetensors.index.json".into(),
            map.to_string().into_bytes(),
        );
        files.insert(name.into(), whole);
    };
    shard("model-00001-of-00001.safetensors");
    run(&place, &server.url, &[]).succeeds();
    let names = fetched(&server);
    let expected = [
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
    ];
    assert!(
        expected
            .iter()
            .all(|name| names.contains(&name.to_string())),
        "{names:?}"
    );
    assert!(
        !names.contains(&"pytorch_model.bin".to_owned()),
        "{names:?}"
    );

    {
        let mut state = server.state();
        let files = state.models.get_mut(NAME).unwrap();
        files.remove("model-00001-of-00001.safetensors");
    }
    let lacking = run(&TestFolder::new(), &server.url, &[]);
    lacking.fails(1, &[NAME, "has no model-00001-of-00001.safetensors"]);

    let other = TestFolder::new();
    shard("../../../outside.safetensors");
    let refused = run(&other, &server.url, &[]);
    refused.fails(
        1,
        &[NAME, "model.safetensors.index.json", "outside.safetensors"],
    );
    assert!(!fetched(&server).iter().any(|name| name.contains("outside")));
}

#[test]
fn what_the_hub_does_not_give_is_told_in_one_line() {
    let place = TestFolder::new();
    let server = hub();
    let refused = |args: &[&str], words: &[&str]| {
        ran(args, command(&place, &server.url, args)).is_refused(1, words);
    };
    refused(
        &generate("an-owner/nothing", &[]),
        &["an-owner/nothing: ", "no model of this name"],
    );
    refused(&generate(NAME, &["--revision", "v2"]), &["--revision"]);
    for revision in ["", "..", "/a", "../../../a", "a//b", "a b"] {
        let args = generate(NAME, &["--revision", revision]);
        let words = ["--revision", "no branch, tag or commit"];
        ran(&args, command(&place, &server.url, &args)).is_refused(2, &words);
    }
    server.state().commit = "../../../../evil".into();
    refused(&generate(NAME, &[]), &["no digest", "not to be trusted"]);
    server.state().commit = COMMIT.into();
    refused(
        &generate(NAME, &["--offline"]),
        &["config.json", "not in the cache", "--offline"],
    );
    let none = "http://127.0.0.1:1";
    run(&place, none, &[]).is_refused(1, &[NAME, "does not answer", "--offline"]);
    run(&place, "no url", &[]).is_refused(1, &[NAME, "does not answer"]);
    server.asked();

    // What is no name on the hub, or lies below a folder that is here, is not asked for.
    fs::create_dir_all(place.path("models/a")).unwrap();
    fs::create_dir_all(place.path("runs/lr")).unwrap();
    for path in [
        "nothing", "models/b", "runs/b", "lr/b", "a/b/c", "./b", "a/..", "a/b c", "/b", "a/",
    ] {
        refused(&generate(path, &[]), &[path, "no such folder or file"]);
    }
    assert!(server.asked().is_empty());

    // A token, given in the one way or the other.
    server.state().token = Some("hf_secret".into());
    refused(&generate(NAME, &[]), &["status: 401", "gated", "HF_TOKEN"]);
    let args = generate(NAME, &[]);
    let mut wrong = command(&place, &server.url, &args);
    wrong.env("HF_TOKEN", "hf_other");
    let wrong = ran(&args, wrong);
    wrong.is_refused(1, &["gated"]);
    assert!(!wrong.stderr.contains("hf_other"));
    let mut given = command(&place, &server.url, &args);
    given
        .env("HF_TOKEN", "hf_secret")
        .env("HF_HUB_CACHE", place.path("cache"));
    ran(&args, given).succeeds();
    assert!(
        place
            .path("cache/models--an-owner--mamba-0.1m/refs/main")
            .exists()
    );
    fs::create_dir_all(place.path("home")).unwrap();
    fs::write(place.path("home/token"), "hf_secret\n").unwrap();
    run(&place, &server.url, &[]).succeeds();
}

#[test]
fn a_download_that_broke_off_goes_on_from_there() {
    let place = TestFolder::new();
    let server = hub();
    server.state().cut = Some(5000);
    for _ in 0..2 {
        run(&place, &server.url, &[]).fails(1, &[NAME, "broke off", "the same command goes on"]);
    }
    server.asked();
    server.state().cut = None;
    run(&place, &server.url, &[]).succeeds();
    let asked = server.asked();
    let rest = format!("/large/{NAME}/model.safetensors bytes=10000-");
    assert!(asked.contains(&rest), "{asked:?}");
    let blob = cached(&place).join("blobs/24096-model.safetensors");
    assert!(fs::read(blob).unwrap() == fs::read(model().join("model.safetensors")).unwrap());
}

/// A limit on the size of files acts as a full disk does.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_is_told_and_a_folder_that_is_none() {
    let place = TestFolder::new();
    let server = hub();
    let args = generate(NAME, &[]);
    let full = place.command_after("trap '' XFSZ; ulimit -f 16", &args);
    let full = ran(&args, at_the_hub(&place, &server.url, full));
    full.fails(1, &[NAME, "File too large", "the same command goes on"]);
    run(&place, &server.url, &[]).succeeds();

    place.write("file", "");
    let mut no_folder = command(&place, &server.url, &args);
    no_folder.env("HF_HOME", place.path("file"));
    let none = place.path("file/hub");
    ran(&args, no_folder).fails(1, &[NAME, none.to_str().unwrap(), "Not a directory"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_download_at_once_and_it_goes_on_later() {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use crate::interrupt::{hear_signals, send};

    let place = TestFolder::new();
    let server = hub();
    {
        let mut state = server.state();
        (state.cut, state.waits) = (Some(5000), true);
    }
    let args = generate(NAME, &[]);
    let mut slow = command(&place, &server.url, &args);
    hear_signals(&mut slow);
    let slow = slow.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = slow.spawn().expect("the command starts");
    // The server sends nothing more, and waits.
    let part = cached(&place).join("blobs/24096-model.part");
    while fs::metadata(&part).map_or(0, |part| part.len()) < 5000 {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    send("INT", &child);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
    server.asked();
    server.state().cut = None;
    run(&place, &server.url, &[]).succeeds();
    assert!(
        server
            .asked()
            .iter()
            .any(|asked| asked.ends_with("bytes=5000-"))
    );
}
