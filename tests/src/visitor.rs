//! A visitor: a client that keeps cookies as a browser does, and goes where it is sent.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::raw::{Raw, Reply};

/// What a browser says of itself when somebody opens a page.
pub const PAGE: &str = "Accept: text/html,*/*;q=0.8\r\nSec-Fetch-Mode: navigate\r\n";

/// See the module.
#[derive(Default, Clone)]
pub struct Visitor {
    /// By authority, path and name.
    jar: BTreeMap<(String, String, String), String>,
}

/// An answer, and where it came from.
#[derive(Debug)]
pub struct Page {
    /// Its address.
    pub url: String,
    /// The answer.
    pub reply: Reply,
}

impl Page {
    /// The value of an attribute of the first tag that holds `mark`.
    #[must_use]
    pub fn attribute(&self, mark: &str, name: &str) -> Option<String> {
        let text = self.reply.text();
        let tag = text.split('<').find(|tag| tag.contains(mark))?;
        let (_, rest) = tag.split_once(&format!("{name}=\""))?;
        Some(rest.split('"').next()?.replace("&amp;", "&"))
    }
}

/// Authority and target of an address.
fn split(url: &str) -> (String, String) {
    let rest = url.strip_prefix("http://").expect("an http address");
    match rest.find(['/', '?']) {
        Some(at) => (rest[..at].to_owned(), rest[at..].to_owned()),
        None => (rest.to_owned(), "/".to_owned()),
    }
}

/// The value of a parameter of an address, decoded.
#[must_use]
pub fn parameter(url: &str, name: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let found = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then_some(value)
    })?;
    let mut out = Vec::new();
    let mut bytes = found.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

impl Visitor {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names of the cookies for an authority.
    #[must_use]
    pub fn cookies(&self, authority: &str) -> Vec<String> {
        let own = self.jar.keys().filter(|(a, _, _)| a == authority);
        own.map(|(_, _, name)| name.clone()).collect()
    }

    /// The value of a cookie.
    #[must_use]
    pub fn cookie(&self, authority: &str, name: &str) -> Option<&str> {
        let found = self
            .jar
            .iter()
            .find(|((a, _, n), _)| a == authority && n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Puts a cookie into the jar.
    pub fn set(&mut self, authority: &str, name: &str, value: &str) {
        let key = (authority.to_owned(), "/".to_owned(), name.to_owned());
        self.jar.insert(key, value.to_owned());
    }

    /// `Cookie` for an address.
    #[must_use]
    pub fn cookie_field(&self, url: &str) -> String {
        let (authority, target) = split(url);
        let path = target.split('?').next().unwrap();
        let pairs: Vec<String> = self
            .jar
            .iter()
            .filter(|((a, p, _), _)| *a == authority && path.starts_with(p.as_str()))
            .map(|((_, _, name), value)| format!("{name}={value}"))
            .collect();
        if pairs.is_empty() {
            return String::new();
        }
        format!("Cookie: {}\r\n", pairs.join("; "))
    }

    /// One request, with these fields; the answer's cookies are kept.
    pub fn ask(&mut self, method: &str, url: &str, fields: &str, body: &str) -> Page {
        let (authority, target) = split(url);
        let cookies = self.cookie_field(url);
        let address: SocketAddr = authority.parse().unwrap();
        let mut raw = Raw::connect(address);
        raw.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: {authority}\r\n{fields}{cookies}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ));
        let reply = raw.try_reply_to(method).unwrap();
        for (_, value) in reply
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"))
        {
            self.keep(&authority, value);
        }
        Page {
            url: url.to_owned(),
            reply,
        }
    }

    fn keep(&mut self, authority: &str, text: &str) {
        let mut parts = text.split(';').map(str::trim);
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let mut path = "/".to_owned();
        let mut gone = false;
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key.to_ascii_lowercase().as_str() {
                "path" => path = value.to_owned(),
                "max-age" => gone = value.parse::<i64>().is_ok_and(|n| n <= 0),
                "expires" => gone |= value.contains("1970"),
                _ => {}
            }
        }
        let key = (authority.to_owned(), path, name.to_owned());
        if gone {
            self.jar.remove(&key);
        } else {
            self.jar.insert(key, value.to_owned());
        }
    }

    /// Opens a page, without going on.
    pub fn get(&mut self, url: &str) -> Page {
        self.ask("GET", url, PAGE, "")
    }

    /// Opens a page and goes where it sends.
    pub fn open(&mut self, url: &str) -> Page {
        let page = self.get(url);
        self.follow(page)
    }

    /// Sends a form, and goes where that leads.
    pub fn send(&mut self, url: &str, form: &str) -> Page {
        let fields = format!("{PAGE}Content-Type: application/x-www-form-urlencoded\r\n");
        let page = self.ask("POST", url, &fields, form);
        self.follow(page)
    }

    /// Goes where an answer sends, twenty times at most.
    pub fn follow(&mut self, mut page: Page) -> Page {
        for _ in 0..20 {
            let Some(location) = page.reply.header("location").map(str::to_owned) else {
                return page;
            };
            let url = if location.starts_with('/') {
                format!("http://{}{location}", split(&page.url).0)
            } else {
                location
            };
            page = self.get(&url);
        }
        panic!("sent round in circles: {}", page.url);
    }

    /// Logs in at the provider's forms, beginning with the first of them, and goes on to where that
    /// leads.
    pub fn log_in(&mut self, form: &Page, name: &str) -> Page {
        let action = form.attribute("form", "action").expect("a form to log in");
        let page = self.send(
            &absolute(&form.url, &action),
            &format!("prompt=login&login={name}&password=x"),
        );
        match page.attribute("form", "action") {
            Some(action) if page.reply.text().contains("value=\"consent\"") => {
                self.send(&absolute(&page.url, &action), "prompt=consent")
            }
            _ => page,
        }
    }
}

fn absolute(base: &str, url: &str) -> String {
    if url.starts_with('/') {
        format!("http://{}{url}", split(base).0)
    } else {
        url.to_owned()
    }
}
