//! A hub of models, on a port of this machine: as much of HTTP and of the hub as fetching a model takes.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// The commit of every model, until another is set.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub has, and how it behaves.
#[derive(Default)]
pub struct State {
    /// Files by their names, of models by theirs.
    pub models: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub commit: String,
    /// Who does not show it gets no file.
    pub token: Option<String>,
    /// So many bytes of weights are sent at a time, and then the connection ends, or waits for the other side to end
    /// it.
    pub cut: Option<usize>,
    pub waits: bool,
    /// What was asked for: path and range.
    pub asked: Vec<String>,
}

pub struct HubServer {
    pub url: String,
    state: Arc<Mutex<State>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HubServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State {
            commit: COMMIT.into(),
            ..State::default()
        }));
        let ends = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (state, ends, url) = (state.clone(), ends.clone(), format!("http://{address}"));
            move || {
                for connection in listener.incoming() {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    // A client that was killed leaves it in the middle.
                    let _ = connection.and_then(|stream| answer(stream, &state, &url));
                }
            }
        });
        Self {
            url: format!("http://{address}"),
            state,
            ends,
            thread: Some(thread),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds it")
    }

    /// What was asked for since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>, url: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = (&mut reader).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty());
    let headers: HashMap<String, String> = headers
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        })
        .collect();
    let range = headers.get("range").map_or("", |range| &range[..]);
    let mut state = state.lock().expect("no test panics while it holds it");
    state
        .asked
        .push(format!("{path} {range}").trim().to_owned());
    let bearer = state.token.as_ref().map(|token| format!("Bearer {token}"));
    let denied = bearer.is_some() && headers.get("authorization") != bearer.as_ref();
    let words: Vec<&str> = path.split('/').skip(1).collect();
    let mut send = Sending { stream, reader };
    match words[..] {
        ["api", "models", owner, name, "revision", "main"] => {
            let Some(files) = state.models.get(&format!("{owner}/{name}")) else {
                return send.status("404 Not Found", "");
            };
            let file = |name: &String| serde_json::json!({ "rfilename": name });
            let files: Vec<_> = files.keys().map(file).collect();
            let info = serde_json::json!({ "sha": state.commit, "siblings": files, "id": name });
            send.whole("200 OK", "", info.to_string().as_bytes())
        }
        [_, _, "resolve", _, _] if denied => send.status("401 Unauthorized", ""),
        [owner, name, "resolve", "main", file] => {
            let there = state.models.get(&format!("{owner}/{name}"));
            let Some(bytes) = there.and_then(|files| files.get(file)) else {
                return send.status("404 Not Found", "");
            };
            let tag = format!("\"{}-{file}\"", bytes.len());
            let commit = format!("X-Repo-Commit: {}\r\n", state.commit);
            match is_weights(file) {
                true => {
                    let to = format!("Location: {url}/large/{owner}/{name}/{file}\r\n");
                    let tags = format!("X-Linked-Etag: {tag}\r\nETag: \"other\"\r\n");
                    send.status("302 Found", &format!("{to}{tags}{commit}"))
                }
                false => send.part(
                    bytes,
                    range,
                    &format!("ETag: {tag}\r\n{commit}"),
                    None,
                    false,
                ),
            }
        }
        ["large", owner, name, file] => {
            let bytes = state.models[&format!("{owner}/{name}")][file].clone();
            let (cut, waits) = (state.cut, state.waits);
            drop(state); // a test looks into it while this waits
            send.part(&bytes, range, "", cut, waits)
        }
        _ => send.status("404 Not Found", ""),
    }
}

fn is_weights(file: &str) -> bool {
    [".safetensors", ".bin", ".gguf"]
        .iter()
        .any(|end| file.ends_with(end))
}

struct Sending {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Sending {
    fn status(&mut self, status: &str, headers: &str) -> std::io::Result<()> {
        self.whole(status, headers, b"")
    }

    fn whole(&mut self, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
        let length = body.len();
        self.head(status, headers, length)?;
        self.stream.write_all(body)
    }

    fn head(&mut self, status: &str, headers: &str, length: usize) -> std::io::Result<()> {
        let end = format!("Content-Length: {length}\r\nConnection: close\r\n\r\n");
        let head = format!("HTTP/1.1 {status}\r\n{headers}{end}");
        self.stream.write_all(head.as_bytes())
    }

    /// What a range (`bytes=0-0`, `bytes=7-`) asks for.
    fn part(
        &mut self,
        bytes: &[u8],
        range: &str,
        headers: &str,
        cut: Option<usize>,
        waits: bool,
    ) -> std::io::Result<()> {
        let (from, to) = range
            .trim_start_matches("bytes=")
            .split_once('-')
            .expect("a range");
        let from: usize = from.parse().expect("a number");
        let to = to.parse().unwrap_or(bytes.len() - 1);
        let place = format!("Content-Range: bytes {from}-{to}/{}\r\n", bytes.len());
        let body = &bytes[from..=to];
        self.head(
            "206 Partial Content",
            &format!("{headers}{place}"),
            body.len(),
        )?;
        let cut = cut.unwrap_or(body.len()).min(body.len());
        self.stream.write_all(&body[..cut])?;
        if waits && cut < body.len() {
            // Until the other side has gone.
            let _ = self.reader.read(&mut [0]);
        }
        Ok(())
    }
}
