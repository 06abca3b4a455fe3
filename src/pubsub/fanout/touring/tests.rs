use std::collections::VecDeque;

use super::*;
use crate::protocol::{Format, command::PayloadKind, publication::Publication};
use crate::pubsub::{
    home::Homes,
    log::{Budget, ChunkPool},
    message::{PendingId, Request, TourStart},
    policy::Policy,
    subscription::Refused,
};

const FILTER: &str = "a/#";
const HOME_COUNT: usize = 2;

/// A fan-out, and homes that answer late.
struct Bench {
    fanout: Fanout,
    outcome: Outcome,
}

impl Bench {
    fn new() -> Bench {
        let (homes, budget) = (Homes::new(HOME_COUNT, 0), Budget::new(1 << 20));
        let fanout = Fanout::new(homes, Policy::skipping(1 << 20), 10, 10, budget);
        Bench { fanout, outcome: Outcome::default() }
    }

    fn subscribe(&mut self, slot: u32) -> Result<(), SubscribeRefused> {
        let start = TourStart { listed: Vec::new(), last: 0 };
        let wanted = WantedTour { start, ticks: None, is_recovered: true };
        let (id, filter) = (ConnectionId { slot, generation: 1 }, Filter::parse(FILTER).expect("a filter"));
        let begun = self.fanout.handle_subscribe_tour(id, filter, Encoding::Json, wanted, &mut self.outcome);
        self.fanout.check();
        begun
    }

    fn unsubscribe(&mut self, slot: u32) -> Result<Unsubscribed, Refused> {
        let left =
            self.fanout.handle_unsubscribe(slot, Encoding::Json, FILTER, PendingId(0), &mut self.outcome);
        self.fanout.check();
        left
    }

    fn waiting_count(&self) -> usize {
        self.fanout.filters.entries.iter().map(|(_, entry)| entry.touring.len()).sum()
    }
}

/// A name is held against all of them, level by level.
#[test]
fn filters_of_many_levels_make_small_pages() {
    let deep = format!("{}#", "a/".repeat(15));
    for (others, entries_max) in [(vec![], 12), (vec!["b/+", "c/+"], 3), (vec![&*deep], 2)] {
        let mut bench = Bench::new();
        let id = ConnectionId { slot: 0, generation: 1 };
        for other in others {
            let filter = Filter::parse(other).expect("a filter");
            bench
                .fanout
                .handle_subscribe_filter(id, Encoding::Json, filter, None, &mut bench.outcome)
                .unwrap();
        }
        let start = TourStart { listed: Vec::new(), last: 1 };
        let wanted = WantedTour { start, ticks: None, is_recovered: true };
        let filter = Filter::parse("z/#").expect("a filter");
        let (fanout, outcome) = (&mut bench.fanout, &mut bench.outcome);
        fanout
            .handle_subscribe_tour(id, filter, Encoding::Json, wanted, outcome)
            .expect("nothing is in the way");
        let asked = outcome.requests.iter().find_map(|(_, request)| match request {
            Request::Tour(request) => Some(request.entries_max),
            _ => None,
        });
        assert_eq!(asked, Some(entries_max));
    }
}

/// As many as ask before its homes have answered.
#[test]
fn nothing_is_kept_of_those_who_waited_for_a_filter() {
    let mut bench = Bench::new();
    let Bench { fanout, outcome } = &mut bench;
    let filter = Filter::parse(FILTER).expect("a filter");
    for slot in 0..8 {
        let (id, pending) = (ConnectionId { slot, generation: 1 }, Some(PendingId(slot)));
        fanout.handle_subscribe_filter(id, Encoding::Json, filter, pending, outcome).unwrap();
    }
    let requests = std::mem::take(&mut outcome.requests).into_iter();
    let registrations = requests.filter_map(|(_, request)| match request {
        Request::AddFilter { registration, .. } => Some(registration),
        _ => None,
    });
    registrations.for_each(|registration| fanout.handle_filter_added(registration, outcome));
    assert_eq!(outcome.started.len(), 8);
    let mut entries = fanout.filters.entries.iter();
    assert!(entries.all(|(_, entry)| entry.waiting.capacity() == 0));
}

/// However many begin together: homes have little of that before them.
#[test]
fn a_reactor_asks_for_few_pages_of_tours_at_a_time() {
    let mut bench = Bench::new();
    let filter = Filter::parse(FILTER).expect("a filter");
    for slot in 0..8 {
        let start = TourStart { listed: Vec::new(), last: 1 };
        let wanted = WantedTour { start, ticks: None, is_recovered: true };
        let id = ConnectionId { slot, generation: 1 };
        let (fanout, outcome) = (&mut bench.fanout, &mut bench.outcome);
        fanout
            .handle_subscribe_tour(id, filter, Encoding::Json, wanted, outcome)
            .expect("nothing is in the way");
    }
    assert!(bench.fanout.handle_disconnect(6, &mut bench.outcome));
    let (mut asked, mut count) = (VecDeque::new(), 0);
    loop {
        asked.extend(bench.outcome.requests.drain(..).filter_map(|(home, request)| match request {
            Request::Tour(request) => Some((home, request)),
            _ => None,
        }));
        assert!(asked.len() <= 3, "{} pages are out", asked.len());
        let Some((home, request)) = asked.pop_front() else { break };
        count += 1;
        let TourRequest { connection, tour, .. } = *request;
        let page = TourPage {
            connection,
            tour,
            home,
            entries: Vec::new(),
            cursor: None,
            tick: 1,
            listed_count: 0,
            is_recovered: true,
        };
        bench.fanout.handle_toured(page, &mut bench.outcome);
        bench.fanout.check();
    }
    assert_eq!(count, 7 * HOME_COUNT, "each is asked for");
    assert!(bench.fanout.waiting_for_others.is_empty() && bench.fanout.tour_pages_out == 0);
}

#[test]
fn a_connection_has_so_many_tours_at_a_time() {
    let mut bench = Bench::new();
    let mut begin = |number: usize| {
        let start = TourStart { listed: Vec::new(), last: 1 };
        let wanted = WantedTour { start, ticks: None, is_recovered: true };
        let (id, filter) = (ConnectionId { slot: 0, generation: 1 }, format!("a/{number}/#"));
        let filter = Filter::parse(&*filter).expect("a filter");
        bench.fanout.handle_subscribe_tour(id, filter, Encoding::Json, wanted, &mut bench.outcome)
    };
    assert!((0..TOURS_MAX).all(|number| begin(number).is_ok()));
    assert_eq!(begin(TOURS_MAX), Err(SubscribeRefused::Busy));
}

/// Pages that were let go of are asked for anew, however often: what the home has counted before is not counted again.
#[test]
fn what_is_asked_for_anew_is_known_to_have_been_counted() {
    let mut bench = Bench::new();
    let mut pool = ChunkPool::new(Budget::new(1 << 20));
    let id = ConnectionId { slot: 0, generation: 1 };
    let start = TourStart { listed: vec![("a/5".into(), 1)], last: 1 };
    let wanted = WantedTour { start, ticks: None, is_recovered: true };
    let filter = Filter::parse(FILTER).expect("a filter");
    let (fanout, outcome) = (&mut bench.fanout, &mut bench.outcome);
    fanout.handle_subscribe_tour(id, filter, Encoding::Json, wanted, outcome).expect("nothing is in the way");
    assert!(fanout.listed_bytes(0) > 0);
    let asked = |outcome: &mut Outcome| -> Vec<(usize, TourRequest)> {
        let tour = |(home, request)| match request {
            Request::Tour(request) => Some((home, *request)),
            _ => None,
        };
        outcome.requests.drain(..).filter_map(tour).collect()
    };
    // Of a topic's third publication, or of nothing.
    let mut page = |request: &TourRequest, home, topic: Option<&str>, end: Option<&str>| {
        let entry = |topic: &str| {
            let (payload, kind) = (&b"1"[..], PayloadKind::Json);
            let publication = Publication { topic, seq: 3, user: None, time_ms: None, payload, kind };
            let len = publication.encoded_len(Format::Json);
            let mut appender = pool.acquire(len, len);
            let range = Some(appender.append(len, |room| publication.encode(Format::Json, room)));
            pool.retire(appender);
            let (gap, is_retained) = (None, false);
            TourEntry { topic: topic.into(), gap, seq: 3, next_seq: 4, range, is_retained }
        };
        TourPage {
            connection: id,
            tour: request.tour,
            home,
            entries: topic.map(entry).into_iter().collect(),
            cursor: end.map(|end| TourCursor { name: end.into(), seq: None }),
            tick: 1,
            listed_count: 0,
            is_recovered: true,
        }
    };
    let shed_and_take = |bench: &mut Bench| {
        bench.fanout.shed_pages(0, u64::MAX, &mut bench.outcome);
        assert!(asked(&mut bench.outcome).is_empty(), "not before it takes something");
        assert!(bench.fanout.take_past(0, false, u32::MAX, &mut bench.outcome).is_none());
        asked(&mut bench.outcome).pop().expect("it is asked for anew")
    };
    let requests: Vec<_> = bench.outcome.requests.drain(..).collect();
    let [(0, Request::Tour(first)), (1, Request::Tour(second))] = &requests[..] else {
        panic!("both homes are asked")
    };
    bench.fanout.handle_toured(page(first, 0, Some("a/5"), Some("a/9")), &mut bench.outcome);
    let (_, again) = shed_and_take(&mut bench);
    let place = again.cursor.clone().expect("it is somewhere");
    assert_eq!((&*place.name, place.seq), ("a/5", Some(3)));
    assert!(again.counted.has("a/9") && !again.counted.has("a/91"));
    bench.fanout.handle_toured(page(&again, 0, Some("a/6"), Some("a/7")), &mut bench.outcome);
    let (_, again) = shed_and_take(&mut bench);
    assert!(again.counted.has("a/9") && !again.counted.has("a/91"), "what was counted stays so");
    bench.fanout.handle_toured(page(&again, 0, Some("a/8"), None), &mut bench.outcome);
    let (_, again) = shed_and_take(&mut bench);
    assert!(again.counted.has("a/91"), "it was the last");
    bench.fanout.handle_toured(page(&again, 0, Some("a/8"), None), &mut bench.outcome);
    assert!(bench.fanout.take_past(0, false, u32::MAX, &mut bench.outcome).is_some());
    bench.fanout.check();
    // So many pages that it was not little.
    let mut request = second.as_ref().clone();
    for end in ["b", "c", "d"] {
        bench.fanout.handle_toured(page(&request, 1, None, Some(end)), &mut bench.outcome);
        request = bench
            .outcome
            .requests
            .drain(..)
            .find_map(|(_, request)| match request {
                Request::Tour(request) => Some(*request),
                _ => None,
            })
            .expect("there is another");
    }
    bench.fanout.handle_toured(page(&request, 1, None, None), &mut bench.outcome);
    let next: Vec<_> = bench.outcome.requests.drain(..).collect();
    assert_eq!(next.len(), HOME_COUNT, "another pass");
    for (_, request) in next {
        let Request::Tour(request) = request else { panic!("a page is asked for") };
        assert!(!request.counted.has("a") && matches!(request.from, TourFrom::Tick(1)));
    }
    assert_eq!(bench.fanout.listed_bytes(0), 0);
}

/// However often tours come and go that wait for a filter: it knows those that are there.
#[test]
fn a_filter_forgets_tours_that_do_not_wait_for_it_any_more() {
    let mut bench = Bench::new();
    (0..4).for_each(|slot| bench.subscribe(slot).expect("nothing is in the way"));
    for round in 0..50 {
        let slot = round % 3;
        assert!(matches!(bench.unsubscribe(slot), Ok(Unsubscribed::Now)));
        assert_eq!(bench.waiting_count(), 3);
        bench.subscribe(slot).expect("nothing is in the way");
    }
    assert_eq!(bench.waiting_count(), 4);
    assert!(bench.fanout.handle_disconnect(1, &mut bench.outcome));
    bench.fanout.check();
    let registrations: Vec<_> = bench.fanout.filters.entries.iter().map(|(_, it)| it.registration).collect();
    bench.outcome.requests.clear();
    for _ in 0..HOME_COUNT {
        bench.fanout.handle_filter_added(registrations[0], &mut bench.outcome);
        bench.fanout.check();
    }
    let tours = bench.fanout.tours.iter();
    assert_eq!(tours.filter(|(_, it)| it.stage == Stage::Holding).count(), 3, "those that are left go on");
    assert_eq!(bench.waiting_count(), 0);
}
