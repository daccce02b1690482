//! The stand for HTTP/2: a connection is carried out alone, with a request behind it that shows whether it goes on.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use super::{MOMENT, Sending, Stand, left, shown, take};
use crate::PATIENCE;
use crate::http2::{headers, request, settings};
use crate::oracle::http2::{End, Reading, answers, read};
use crate::oracle::judge::Trial;
use crate::oracle::judge::http2::{Verdict, is_head, judge};

impl Stand {
    /// Carries a connection out, and judges. `sending` begins with a preface.
    ///
    /// # Errors
    /// What is not as it must be, with what was sent, seen and heard.
    pub fn check_http2(&mut self, sending: &Sending) -> Result<Verdict, String> {
        let mut trial = Trial::default();
        self.passed.clear();
        let done = self.carry_out_http2(sending, &mut trial);
        let judged = done.and_then(|()| judge(&trial, self.role));
        judged.map_err(|why| self.told(&why, sending, &trial))
    }

    /// All that is known of a connection that went wrong.
    fn told(&self, why: &str, sending: &Sending, trial: &Trial) -> String {
        let told = read(&trial.sent);
        let lines = |lines: Vec<String>| lines.join("\n    ");
        let streams = told.streams.iter().map(|(id, s)| format!("{id}: {s:?}"));
        let seen = trial
            .seen
            .iter()
            .map(|(serial, r)| format!("{serial}: {r:?}"));
        let cut: Vec<String> = trial.cut.iter().map(|b| shown(b)).collect();
        format!(
            "{why}\n  role: {:?}, {}\n  sent: \"{}\"\n  in parts from {:?}\n  oracle: {:?}, loose: {:?}\n    {}\n  upstream:\n    {}\n  cut off: {cut:?}\n  client: \"{}\"",
            self.role,
            if trial.patient { "patient" } else { "hasty" },
            shown(&trial.sent),
            sending.cuts,
            told.end,
            told.loose,
            lines(streams.collect()),
            lines(seen.collect()),
            shown(&trial.heard),
        )
    }

    fn carry_out_http2(&mut self, sending: &Sending, trial: &mut Trial) -> Result<(), String> {
        trial.sent.clone_from(&sending.bytes);
        trial.patient = !sending.hasty && self.ask_behind(&mut trial.sent);
        let told = read(&trial.sent);
        let bytes = trial.sent.clone();
        let mut client = TcpStream::connect(self.front).unwrap();
        client.set_nodelay(true).unwrap();
        let mut from = 0;
        for to in sending.cuts.iter().copied().chain([bytes.len()]) {
            // A proxy that has closed already is no error: what it said is to be read.
            let _ = client.write_all(&bytes[from..to]);
            from = to;
            self.serve(trial)?;
            if sending.slow && (to < bytes.len() || !trial.patient) {
                // Whether it was long enough changes what is tried, and no verdict.
                self.wait(None, MOMENT);
                self.serve(trial)?;
            }
        }
        if !trial.patient {
            let _ = client.shutdown(Shutdown::Write);
        }
        client.set_nonblocking(true).unwrap();
        let mut waits = trial.patient && told.end == End::Open;
        let deadline = Instant::now() + PATIENCE;
        while !take(&mut client, &mut trial.heard) {
            if waits && is_done(&told, &trial.heard) {
                let _ = client.shutdown(Shutdown::Write);
                waits = false;
            }
            let left = left(deadline, "the client's connection")?;
            self.wait(Some(&client), left);
            self.serve(trial)?;
        }
        drop(client);
        self.turn(trial)?;
        self.settle(trial)
    }

    /// Puts a request of its own behind a connection that goes on, on a stream that is new, once there is credit for
    /// answers. Gives whether it is known what is to be waited for.
    fn ask_behind(&mut self, bytes: &mut Vec<u8>) -> bool {
        let told = read(bytes);
        let highest = told.streams.keys().last().copied().unwrap_or(0);
        match told.end {
            End::Broken(..) => true,
            End::Open if highest < 0x7fff_fff0 => {
                self.nonce += 1;
                let stream = if highest == 0 { 1 } else { highest + 2 };
                let path = format!("/own/{}", self.nonce);
                bytes.extend(settings(&[(4, 65_535)]));
                bytes.extend(headers(stream, &request("GET", &path, &[]), true));
                true
            }
            End::Open | End::Short => false,
        }
    }

    /// Has the proxy's worker go round once more: by the time it has refused a stranger, the tasks that it had woken
    /// for the end of a connection have done what they will ever do.
    fn turn(&mut self, trial: &mut Trial) -> Result<(), String> {
        let mut stranger = TcpStream::connect(self.front).unwrap();
        let _ = stranger.write_all(b"nothing that is a request\r\n\r\n");
        stranger.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut refusal = Vec::new();
        while !take(&mut stranger, &mut refusal) {
            let left = left(deadline, "the refusal of a stranger")?;
            self.wait(Some(&stranger), left);
            self.serve(trial)?;
        }
        match refusal.starts_with(b"HTTP/1.1 400 ") {
            true => Ok(()),
            false => Err(format!("a stranger got \"{}\"", shown(&refusal))),
        }
    }
}

/// Whether every stream that is owed something has it. What is no answer ends the wait too, for the judge to see.
fn is_done(told: &Reading, heard: &[u8]) -> bool {
    let Ok(heard) = answers::read(heard, |id| is_head(told, id)) else {
        return true;
    };
    let over = |id: &u32| heard.answers.get(id).is_some_and(answers::Answer::is_over);
    let mut owed = told.streams.iter().filter(|(_, stream)| stream.is_owed());
    owed.all(|(id, _)| over(id))
}
