//! A scenario as data: topics, who subscribes, who publishes; and opening all of it.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use crate::{
    cli::Broker,
    client::{Lane, Publisher, Subscriber, Topic},
    connect::{self, Connected},
    dialect::{Dialect, Message, Reader, Role},
    payload::Payload,
    schedule::Schedule,
};

/// Topics of a run, and their connections to be.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What is run, in a line.
    pub title: String,
    /// Names of what is reported apart.
    pub groups: Vec<String>,
    /// The topics.
    pub topics: Vec<Topic>,
    /// Who subscribes.
    pub subscribers: Vec<PlannedSubscriber>,
    /// Who publishes.
    pub publishers: Vec<PlannedPublisher>,
}

/// A subscriber's connection to be.
#[derive(Clone, Debug)]
pub struct PlannedSubscriber {
    topics: Vec<usize>,
    lane: Lane,
    is_sampled: bool,
}

/// A publisher's connection to be.
#[derive(Clone, Debug)]
pub struct PlannedPublisher {
    feeds: Vec<(usize, usize)>,
    lane: Lane,
}

impl Plan {
    /// With nothing in it.
    pub fn new(title: String) -> Plan {
        Plan { title, ..Plan::default() }
    }

    /// Adds a group that is reported apart.
    pub fn add_group(&mut self, name: &str) -> usize {
        self.groups.push(name.to_owned());
        self.groups.len() - 1
    }

    /// Adds a topic.
    pub fn add_topic(&mut self, group: usize, name: String, schedule: Schedule, size: u64) -> usize {
        let payload = Payload::new(size as usize);
        self.topics.push(Topic { name, group, schedule, payload, is_conflated: false, publishers: 0 });
        self.topics.len() - 1
    }

    /// Lets whoever is behind on any topic lose what is not the newest.
    pub fn conflate(&mut self) {
        self.topics.iter_mut().for_each(|it| it.is_conflated = true);
    }

    /// Adds a subscriber of these topics, all of one group.
    pub fn subscribe(&mut self, mut topics: Vec<usize>, lane: Lane) {
        topics.sort_unstable();
        topics.dedup();
        self.subscribers.push(PlannedSubscriber { topics, lane, is_sampled: false });
    }

    /// Adds a publisher to these topics.
    pub fn publish(&mut self, topics: &[usize], lane: Lane) {
        let feed = |topic: &usize| {
            let publishers = &mut self.topics[*topic].publishers;
            *publishers += 1;
            (*topic, *publishers - 1)
        };
        let feeds = topics.iter().map(feed).collect();
        self.publishers.push(PlannedPublisher { feeds, lane });
    }

    /// Samples `count` of a group's subscribers, spread so that early and late ones are both looked at,
    /// and at least one of each topic: without it nobody knows how many bytes the others should have.
    pub fn sample(&mut self, group: usize, count: usize) {
        let topics = &self.topics;
        let of_group = |it: &PlannedSubscriber| topics[it.topics[0]].group == group;
        let total = self.subscribers.iter().filter(|it| of_group(it)).count();
        let mut is_covered = vec![false; topics.len()];
        let mut members: Vec<_> = self.subscribers.iter_mut().filter(|it| of_group(it)).collect();
        for (index, it) in members.iter_mut().enumerate() {
            it.is_sampled = index * count / total != (index + 1) * count / total;
            if it.is_sampled {
                it.topics.iter().for_each(|topic| is_covered[*topic] = true);
            }
        }
        for it in members {
            if it.topics.iter().any(|topic| !is_covered[*topic]) {
                it.is_sampled = true;
                it.topics.iter().for_each(|topic| is_covered[*topic] = true);
            }
        }
    }

    /// How many connections it has.
    pub fn connection_count(&self) -> usize {
        self.subscribers.len() + self.publishers.len()
    }

    /// How many subscribers a group has.
    pub fn subscriber_count(&self, group: usize) -> usize {
        self.subscribers.iter().filter(|it| self.topics[it.topics[0]].group == group).count()
    }

    /// Opens everybody's connection and subscribes.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn open(&self, broker: &Broker) -> Result<(Vec<Subscriber>, Vec<Publisher>), String> {
        let target = broker.target()?;
        let has_several = self.subscribers.iter().any(|it| it.topics.len() > 1)
            || self.publishers.iter().any(|it| it.feeds.len() > 1);
        if has_several && !matches!(broker.protocol, Dialect::Json | Dialect::Binary | Dialect::Mqtt) {
            return Err(
                "several topics on one connection: fanfare-json, fanfare-bin and mqtt only".to_owned()
            );
        }
        let mut subscribers = Vec::with_capacity(self.subscribers.len());
        for alike in self.subscribers.chunk_by(|one, other| one.topics == other.topics) {
            let topic = &self.topics[alike[0].topics[0]].name;
            let opened = subscribers.len();
            let role = Role::Subscriber(topic);
            let connections = connect::connect(&target, broker.protocol, role, opened, alike.len())?;
            for (planned, connected) in alike.iter().zip(connections) {
                subscribers.push(self.subscribe_to_rest(planned, connected, broker)?);
            }
        }
        let mut publishers = Vec::with_capacity(self.publishers.len());
        for alike in self.publishers.chunk_by(|one, other| one.feeds[0].0 == other.feeds[0].0) {
            let topic = &self.topics[alike[0].feeds[0].0].name;
            let opened = subscribers.len() + publishers.len();
            let role = Role::Publisher(topic);
            let connections = connect::connect(&target, broker.protocol, role, opened, alike.len())?;
            for (planned, connected) in alike.iter().zip(connections) {
                let Connected { socket, reader, .. } = connected;
                let PlannedPublisher { feeds, lane } = planned.clone();
                publishers.push(Publisher { feeds, socket, reader, lane });
            }
        }
        Ok((subscribers, publishers))
    }

    /// Opens everybody's connection as a bare socket, subscribers first, where nobody subscribes or upgrades; all topics
    /// start at `seq`.
    ///
    /// # Errors
    /// What `open` says of the connection with some number.
    pub fn open_bare(
        &self,
        seq: u64,
        open: &dyn Fn(usize) -> Result<TcpStream, String>,
    ) -> Result<(Vec<Subscriber>, Vec<Publisher>), String> {
        let reader = Reader::default;
        let subscriber = |(index, it): (usize, &PlannedSubscriber)| {
            let topics = it.topics.iter().map(|topic| (*topic, seq)).collect();
            let (socket, is_sampled) = (open(index)?, it.is_sampled);
            Ok(Subscriber { topics, socket, reader: reader(), is_sampled, lane: it.lane })
        };
        let subscribers = self.subscribers.iter().enumerate().map(subscriber);
        let subscribers = subscribers.collect::<Result<Vec<_>, String>>()?;
        let publisher = |(index, it): (usize, &PlannedPublisher)| {
            let socket = open(subscribers.len() + index)?;
            Ok(Publisher { feeds: it.feeds.clone(), socket, reader: reader(), lane: it.lane })
        };
        let publishers = self.publishers.iter().enumerate().map(publisher);
        let publishers = publishers.collect::<Result<Vec<_>, String>>()?;
        Ok((subscribers, publishers))
    }

    fn subscribe_to_rest(
        &self,
        planned: &PlannedSubscriber,
        mut connected: Connected,
        broker: &Broker,
    ) -> Result<Subscriber, String> {
        let mut topics = vec![(planned.topics[0], connected.seq)];
        for &topic in &planned.topics[1..] {
            let name = &self.topics[topic].name;
            let seq = subscribe(&mut connected, broker.protocol, name)
                .map_err(|error| format!("{}: subscribing to {name}: {error}", broker.url))?;
            topics.push((topic, seq));
        }
        let Connected { socket, reader, .. } = connected;
        Ok(Subscriber { topics, socket, reader, is_sampled: planned.is_sampled, lane: planned.lane })
    }
}

/// One more subscription of a connection on which nothing else is on its way; its `seq`.
fn subscribe(connected: &mut Connected, dialect: Dialect, topic: &str) -> Result<u64, String> {
    let mut command = Vec::new();
    dialect.write_subscribe(topic, &mut command);
    connected.socket.write_all(&command).map_err(|error| error.to_string())?;
    let mut found = None;
    let mut bytes = [0; 4096];
    loop {
        let len = connected.socket.read(&mut bytes).map_err(|error| error.to_string())?;
        if len == 0 {
            return Err("closed before it was answered".to_owned());
        }
        let mut on_message = |message: Message<'_>| match message {
            Message::Ok { seq, .. } => {
                found = Some(seq);
                Ok(())
            }
            Message::Error(error) => Err(error),
            _ => Ok(()),
        };
        connected.reader.feed(dialect, &bytes[..len], &mut on_message)?;
        if let Some(seq) = found {
            return Ok(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(plan: &Plan) -> Vec<usize> {
        let indexes = plan.subscribers.iter().enumerate().filter(|it| it.1.is_sampled);
        indexes.map(|it| it.0).collect()
    }

    #[test]
    fn samples_are_spread() {
        let mut plan = Plan::new(String::new());
        let group = plan.add_group("g");
        let topic = plan.add_topic(group, "t".to_owned(), Schedule::of_one(1), 64);
        (0..10).for_each(|_| plan.subscribe(vec![topic], Lane::Bulk));
        plan.sample(group, 2);
        assert_eq!(sampled(&plan), [4, 9]);
    }

    #[test]
    fn every_topic_has_one_who_is_sampled() {
        let mut plan = Plan::new(String::new());
        let group = plan.add_group("g");
        let topics: Vec<usize> = (0..4)
            .map(|index| plan.add_topic(group, format!("t/{index}"), Schedule::of_one(1), 64))
            .collect();
        for &topic in &topics {
            plan.subscribe(vec![topic, (topic + 1) % 4], Lane::Bulk);
        }
        plan.sample(group, 1);
        assert_eq!(sampled(&plan), [0, 1, 3]);
    }
}
