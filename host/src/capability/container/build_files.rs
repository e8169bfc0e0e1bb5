//! The bytes that the build of an image has written: those of its steps' containers, and those of the layers that its steps have left.
//!
//! The engine's story names the containers and the images, but the output of the steps is told in the same story, and may name whatever it likes. A name that a step made up adds
//! bytes or none: it never takes any away.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bollard::query_parameters::InspectContainerOptions;
use tokio::sync::mpsc;

use super::{
    engine::{ContainerEngine, EngineFailure, bounded, is_missing},
    life::pause_after,
};

/// Most containers and images of one build. Engines allow an image 127 layers.
const MAX_NAMES: usize = 512;
/// Digits of the short ids in the story.
const ID_DIGITS: usize = 12;

/// What the story names.
enum Named {
    Container(String),
    Image(String),
}

/// Takes names from the story of a build.
pub(super) struct BuildNames {
    known: HashSet<String>,
    names: mpsc::Sender<Named>,
}

/// What a build has written.
pub(super) struct BuildFiles {
    names: mpsc::Receiver<Named>,
    /// Seconds since 1970: a layer that is older was there before.
    began: i64,
    /// The images whose layers nobody has looked at.
    images: Vec<String>,
    /// The containers that were there at the last look, as far as anybody knows.
    containers: Vec<String>,
    /// Bytes of each layer.
    layers: HashMap<(i64, String), u64>,
}

/// Of a build that begins now.
pub(super) fn new() -> (BuildNames, BuildFiles) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let began = i64::try_from(now).unwrap_or(i64::MAX);
    let (sender, names) = mpsc::channel(MAX_NAMES);
    let files = BuildFiles { names, began, images: Vec::new(), containers: Vec::new(), layers: HashMap::new() };
    (BuildNames { known: HashSet::new(), names: sender }, files)
}

impl BuildNames {
    /// Takes the names in a piece of the story.
    pub(super) fn hear(&mut self, text: &str) -> Result<(), EngineFailure> {
        for line in text.lines() {
            let Some(rest) = line.trim().strip_prefix("---> ") else { continue };
            let (name, id): (fn(String) -> Named, _) = match rest.strip_prefix("Running in ") {
                Some(id) => (Named::Container, id),
                None => (Named::Image, rest),
            };
            let is_id = id.len() == ID_DIGITS && id.bytes().all(|digit| digit.is_ascii_hexdigit());
            if !is_id || self.known.contains(id) {
                continue;
            }
            // The channel has room for all of them.
            if self.known.len() == MAX_NAMES || self.names.try_send(name(id.to_owned())).is_err() {
                return Err(EngineFailure::Refused(format!("the build has more than {MAX_NAMES} steps")));
            }
            self.known.insert(id.to_owned());
        }
        Ok(())
    }
}

impl BuildFiles {
    /// Watches until the story ends. Fails when the build has written more than the settings allow.
    pub(super) async fn watch(mut self, engine: &ContainerEngine) -> Result<(), EngineFailure> {
        let (mut is_over, mut pause) = (false, pause_after(Duration::ZERO));
        while !is_over {
            is_over = tokio::time::timeout(pause, self.hear_all()).await.is_ok();
            let asked = Instant::now();
            let most = engine.config().disk_bytes;
            if self.bytes(engine).await > most {
                let why = format!("the build has written more than {most} bytes (containers.disk_bytes)");
                return Err(EngineFailure::Refused(why));
            }
            pause = pause_after(asked.elapsed());
        }
        Ok(())
    }

    /// Takes names until there are no more.
    async fn hear_all(&mut self) {
        while let Some(name) = self.names.recv().await {
            match name {
                Named::Container(id) => self.containers.push(id),
                Named::Image(id) => self.images.push(id),
            }
        }
    }

    /// All bytes so far. An engine that does not tell them has no such bound.
    async fn bytes(&mut self, engine: &ContainerEngine) -> u64 {
        for image in std::mem::take(&mut self.images) {
            let layers = bounded(engine.short().image_history(&image)).await.unwrap_or_default();
            for layer in layers.into_iter().filter(|layer| layer.created >= self.began) {
                let bytes = u64::try_from(layer.size).unwrap_or_default();
                self.layers.insert((layer.created, layer.created_by), bytes);
            }
        }
        let mut sum = self.layers.values().copied().fold(0, u64::saturating_add);
        let mut there = Vec::new();
        for container in std::mem::take(&mut self.containers) {
            let options = InspectContainerOptions { size: true };
            match bounded(engine.short().inspect_container(&container, Some(options))).await {
                Ok(seen) => {
                    let bytes = u64::try_from(seen.size_rw.unwrap_or_default()).unwrap_or_default();
                    sum = sum.saturating_add(bytes);
                }
                Err(gone) if is_missing(&gone) => continue,
                Err(_) => {}
            }
            there.push(container);
        }
        self.containers = there;
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_taken_from_the_story_and_from_nothing_else() {
        let (mut names, mut files) = new();
        names.hear("Step 1/2 : FROM busybox\n").expect("few");
        names.hear(" ---> 0123456789ab\nStep 2/2 : RUN x\n ---> Running in ba9876543210\n").expect("few");
        names.hear(" ---> ../../../etc\n ---> Running in 0123456789abc\n ---> Using cache\n").expect("few");
        names.hear(" ---> 0123456789ab\n").expect("known");
        drop(names);
        files.hear_all().await;
        assert_eq!(
            (files.images, files.containers),
            (vec!["0123456789ab".to_owned()], vec!["ba9876543210".to_owned()])
        );
    }

    #[test]
    fn a_step_that_names_things_without_end_ends_its_build() {
        let (mut names, _files) = new();
        let story: String = (0..=MAX_NAMES).map(|n| format!(" ---> {n:012x}\n")).collect();
        assert!(matches!(names.hear(&story), Err(EngineFailure::Refused(why)) if why.contains("more than 512 steps")));
    }
}
