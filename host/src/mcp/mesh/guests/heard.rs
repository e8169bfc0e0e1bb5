//! Announcements that this host heard on guests' topics. Who announces much pushes out its own, and no other host's.

use std::collections::{HashMap, VecDeque};

use crate::{
    capability::mesh::{MAX_PAYLOAD_BYTES, handle::HeardAnnouncement},
    limits::now_ms,
    mesh::PeerId,
    names::{ComponentName, Topic},
};

/// Hosts whose announcements are remembered: those that were heard last.
const MAX_HOSTS: usize = 32;
/// Announcements of one host that are remembered. With [`MAX_HOSTS`] and the largest payload that is 768 KiB.
const MAX_OF_HOST: usize = 8;
/// Announcements that one question gives.
const MAX_PAGE: usize = 64;
/// The first byte of a guest's announcement.
const FORMAT: u8 = 1;

/// An announcement as it goes over the mesh: a byte for the format, the topic's length and the topic, the payload.
pub(super) fn write(topic: &Topic, payload: &[u8]) -> Option<Vec<u8>> {
    let topic = topic.to_string();
    let length = u8::try_from(topic.len()).ok()?;
    (payload.len() <= MAX_PAYLOAD_BYTES).then(|| [&[FORMAT, length], topic.as_bytes(), payload].concat())
}

fn read(data: &[u8]) -> Option<(Topic, &[u8])> {
    let [FORMAT, length, rest @ ..] = data else { return None };
    let (topic, payload) = rest.split_at_checked(usize::from(*length))?;
    let (component, name) = std::str::from_utf8(topic).ok()?.split_once('/')?;
    let topic = Topic { component: ComponentName::new(component).ok()?, name: ComponentName::new(name).ok()? };
    (payload.len() <= MAX_PAYLOAD_BYTES).then_some((topic, payload))
}

/// What was heard, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Heard {
    last: u64,
    by_host: HashMap<PeerId, VecDeque<(Topic, HeardAnnouncement)>>,
}

impl Heard {
    /// Remembers an announcement, if it is one of a guest.
    pub(super) fn take(&mut self, peer: PeerId, data: &[u8]) {
        let Some((topic, payload)) = read(data) else { return };
        if self.by_host.len() >= MAX_HOSTS && !self.by_host.contains_key(&peer) {
            let newest = |heard: &VecDeque<(Topic, HeardAnnouncement)>| heard.back().map_or(0, |(_, last)| last.number);
            let oldest = self.by_host.iter().min_by_key(|(_, heard)| newest(heard)).map(|(host, _)| host.clone());
            oldest.and_then(|host| self.by_host.remove(&host));
        }
        let time_ms = now_ms();
        // Not below the time: so numbers rise over a restart too.
        self.last = self.last.saturating_add(1).max(time_ms);
        let heard = HeardAnnouncement { number: self.last, peer: peer.clone(), payload: payload.to_vec(), time_ms };
        let of_host = self.by_host.entry(peer).or_default();
        if of_host.len() >= MAX_OF_HOST {
            of_host.pop_front();
        }
        of_host.push_back((topic, heard));
    }

    /// Those on a topic with a number above `after`, the oldest first.
    pub(super) fn on(&self, topic: &Topic, after: u64) -> Vec<HeardAnnouncement> {
        let all = self.by_host.values().flatten();
        let wanted = all.filter(|(on, heard)| on == topic && heard.number > after);
        let mut wanted: Vec<&HeardAnnouncement> = wanted.map(|(_, heard)| heard).collect();
        wanted.sort_by_key(|heard| heard.number);
        wanted.into_iter().take(MAX_PAGE).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::parse(text, &ComponentName::new("c").expect("legal")).expect("a topic")
    }

    fn host(number: usize) -> PeerId {
        const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
        let letter = char::from(LETTERS[number]);
        format!("12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2{letter}o").parse().expect("a peer")
    }

    #[test]
    fn what_is_heard_is_bounded_by_host_and_what_is_no_announcement_is_nothing() {
        let mut heard = Heard::default();
        let ready = topic("queue/ready");
        let say = |text: &str| write(&ready, text.as_bytes()).expect("short");
        for data in
            [&b""[..], b"\x01", b"\x02\x01a", b"\x01\xffqueue/ready", b"\x01\x05queue", b"\x01\x02\xff\xff", b"{}"]
        {
            heard.take(host(0), data);
        }
        assert!(heard.by_host.is_empty());
        heard.take(host(0), &say("quiet"));
        (0..100).for_each(|n| heard.take(host(1), &say(&n.to_string())));
        let on = heard.on(&ready, 0);
        assert_eq!((on.len(), on[0].payload.as_slice()), (1 + MAX_OF_HOST, &b"quiet"[..]));
        assert_eq!(heard.on(&ready, on[1].number).len(), MAX_OF_HOST - 1);
        assert!(heard.on(&topic("queue/other"), 0).is_empty());
        (2..2 + MAX_HOSTS).for_each(|n| heard.take(host(n), &say("x")));
        assert_eq!(heard.by_host.len(), MAX_HOSTS);
        assert!(write(&ready, &[0; MAX_PAYLOAD_BYTES + 1]).is_none());
        let longest = topic(&format!("{}/{}", "c".repeat(64), "n".repeat(64)));
        let written = write(&longest, &[0; MAX_PAYLOAD_BYTES]).expect("the largest");
        assert!(written.len() <= crate::mesh::announcements::MAX_ANNOUNCEMENT_BYTES, "{}", written.len());
        heard.take(host(0), &written);
        assert_eq!(heard.on(&longest, 0).len(), 1);
    }
}
