//! Part of stage 7, balance: the choice among endpoints of which each would do. Its tables are made when
//! the endpoints change; a pick reads a few words of them, and figures of two endpoints.

mod draw;
mod maglev;
mod ring;
mod turn;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use selvedge_contract::defaults::balance::LOAD_FLOOR;

use super::Endpoint;
use super::key::{Asked, mixed, of_address};
use super::plan::{Plan, Sticky, Strategy};
use super::service::Service;

use draw::Draw;
use maglev::Maglev;
use ring::Ring;

/// Draws after which an endpoint is taken though its slow start was against it: by then most that
/// there are have been asked.
const DRAWS: usize = 16;

/// Points of a ring that are looked at for an endpoint below its bound. Some 1/(bound - 1)^2 are needed
/// (<https://arxiv.org/abs/1608.01350>): 16 for the default of 1.25.
const POINTS: usize = 64;

/// Endpoints that share requests among them.
#[derive(Debug)]
pub(super) struct Group {
    list: Vec<Arc<Endpoint>>,
    table: Table,
    /// Where each source stays.
    by_source: Option<Ring>,
    /// Sum of weights.
    total: f32,
    /// Some are in their slow start, and not all alike.
    pub(super) warms: bool,
}

#[derive(Debug)]
enum Table {
    None,
    Turn(Vec<u16>),
    Draw(Draw),
    Ring(Ring),
    Maglev(Maglev),
}

/// What one pick knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment<'a> {
    pub(super) service: &'a Service,
    pub(super) asked: &'a Asked,
    pub(super) avoid: Option<u64>,
    /// Milliseconds of the process clock.
    pub(super) now: u64,
    /// Slow starts are on.
    pub(super) warm: bool,
}

impl Moment<'_> {
    fn warmth(&self, endpoint: &Endpoint) -> f32 {
        if self.warm {
            endpoint.warmth(self.service.plan().slow_start, self.now)
        } else {
            1.0
        }
    }

    /// Whether the slow start of an endpoint lets this request go there.
    fn lets(&self, endpoint: &Endpoint) -> bool {
        if !self.warm {
            return true;
        }
        let warmth = self.warmth(endpoint);
        warmth >= 1.0 || fastrand::f32() < warmth
    }

    /// The same for a key, which goes there for good once it has.
    fn lets_key(&self, endpoint: &Endpoint, key: u64) -> bool {
        if !self.warm {
            return true;
        }
        #[expect(clippy::cast_precision_loss, reason = "24 bits, which `f32` has")]
        let place = (mixed(key ^ of_address(endpoint.address)) >> 40) as f32 / (1 << 24) as f32;
        place < self.warmth(endpoint)
    }
}

impl Group {
    pub(super) fn of(list: Vec<Arc<Endpoint>>, plan: &Plan) -> Self {
        let table = match plan.strategy {
            Strategy::LeastRequest { .. }
            | Strategy::ResponseTime
            | Strategy::Bandwidth
            | Strategy::ReportedLoad => Table::None,
            Strategy::RoundRobin => Table::Turn(turn::smooth(&list)),
            Strategy::LeastConnections | Strategy::Random => Table::Draw(Draw::of(&list)),
            Strategy::Ring { .. } => Table::Ring(Ring::of(&list)),
            Strategy::Maglev { .. } => Table::Maglev(Maglev::of(&list)),
        };
        let began = |e: &Arc<Endpoint>| e.warm_from.load(Relaxed);
        let first = list.first().map_or(0, began);
        Self {
            by_source: matches!(plan.sticky, Some(Sticky::Source)).then(|| Ring::of(&list)),
            total: list.iter().map(|e| e.share()).sum(),
            // Where all began together, each gets its share from the start.
            warms: list.iter().any(|e| began(e) != first),
            table,
            list,
        }
    }

    /// The one for this request; another than the one to avoid, where there is one.
    pub(super) fn choose(&self, at: &Moment<'_>) -> Option<&Arc<Endpoint>> {
        let list = self.list.as_slice();
        let index = match list {
            [] => return None,
            [only] => return Some(only),
            _ => match (&self.by_source, at.asked.source, &self.table) {
                (Some(ring), Some(source), _) => self.on_ring(ring, source, 0, at),
                (_, _, Table::Ring(ring)) => self.on_ring(ring, key(at), bound(at), at),
                (_, _, Table::Maglev(table)) => self.in_table(table, key(at), bound(at), at),
                (_, _, Table::Turn(order)) => self.drawn(at, || in_turn(at.service, order)),
                (_, _, Table::Draw(draw)) => self.by_weight(draw, at),
                (_, _, Table::None) => self.by_load(at),
            },
        };
        let chosen = list.get(index)?;
        if at.avoid != Some(chosen.id) {
            return Some(chosen);
        }
        // The neighbour: any other will do, and this needs no second draw.
        list.get((index + 1) % list.len())
    }

    /// Draws until a slow start lets one through.
    fn drawn(&self, at: &Moment<'_>, draw: impl Fn() -> usize) -> usize {
        let mut index = draw();
        for _ in 0..DRAWS {
            if self.list.get(index).is_none_or(|e| at.lets(e)) {
                break;
            }
            index = draw();
        }
        index
    }

    fn by_weight(&self, draw: &Draw, at: &Moment<'_>) -> usize {
        let count = self.list.len();
        let first = self.drawn(at, || draw.draw(count));
        if at.service.plan().strategy == Strategy::Random {
            return first;
        }
        let second = self.drawn(at, || draw.draw(count));
        self.better(first, second, at)
    }

    fn by_load(&self, at: &Moment<'_>) -> usize {
        let count = self.list.len();
        if at.service.plan().strategy == (Strategy::LeastRequest { full: true }) {
            return self.least_of_all(at);
        }
        let first = self.drawn(at, || fastrand::usize(..count));
        // A different one, without a loop where nothing starts slowly.
        let second = self.drawn(at, || (first + 1 + fastrand::usize(..count - 1)) % count);
        self.better(first, second, at)
    }

    /// The better of two by what the strategy goes by; the first where both are as good.
    fn better(&self, first: usize, second: usize, at: &Moment<'_>) -> usize {
        let (Some(a), Some(b)) = (self.list.get(first), self.list.get(second)) else {
            return first;
        };
        // Of one that is starting slowly it is not known yet what it carries, or what it says is that it has little
        // to do: its ramp decides.
        let starts = at.warm && (at.warmth(a) < 1.0 || at.warmth(b) < 1.0);
        let (x, y) = match at.service.plan().strategy {
            Strategy::Bandwidth | Strategy::ReportedLoad if starts => {
                (requests(a, at), requests(b, at))
            }
            Strategy::ResponseTime => {
                let cost = |e: &Endpoint| e.latency(at.now) * requests(e, at);
                (cost(a), cost(b))
            }
            Strategy::LeastConnections => (connections(a, at), connections(b, at)),
            Strategy::Bandwidth => {
                let rate = |e: &Endpoint| e.bandwidth(at.now) / at.warmth(e) / e.share();
                let (x, y) = (rate(a), rate(b));
                // Where neither carries anything that counts (a byte a second), the idle one.
                if (x - y).abs() < 1.0 {
                    (requests(a, at), requests(b, at))
                } else {
                    (x, y)
                }
            }
            Strategy::ReportedLoad => match (a.reported(at.now), b.reported(at.now)) {
                (Some(x), Some(y)) => {
                    let (x, y) = (x.max(LOAD_FLOOR), y.max(LOAD_FLOOR));
                    (x * requests(a, at), y * requests(b, at))
                }
                // Of one that says nothing, or no longer, nothing is assumed.
                _ => (requests(a, at), requests(b, at)),
            },
            _ => (requests(a, at), requests(b, at)),
        };
        if y < x { second } else { first }
    }

    fn least_of_all(&self, at: &Moment<'_>) -> usize {
        let count = self.list.len();
        // From anywhere, so that the first of equals is not always the same.
        let start = fastrand::usize(..count);
        let mut best = (f32::INFINITY, start);
        for index in (start..count).chain(0..start) {
            let Some(endpoint) = self.list.get(index) else {
                continue;
            };
            let load = requests(endpoint, at);
            if load < best.0 && at.lets(endpoint) {
                best = (load, index);
            }
        }
        best.1
    }

    fn on_ring(&self, ring: &Ring, key: u64, bound: u32, at: &Moment<'_>) -> usize {
        let mut first = None;
        for index in ring.from(key).take(POINTS) {
            let Some(endpoint) = self.list.get(index) else {
                continue;
            };
            if self.takes(endpoint, key, bound, at) {
                return index;
            }
            if at.avoid != Some(endpoint.id) {
                first.get_or_insert(index);
            }
        }
        first.unwrap_or(0)
    }

    fn in_table(&self, table: &Maglev, key: u64, bound: u32, at: &Moment<'_>) -> usize {
        let own = table.find(key).unwrap_or(0);
        let mut place = key;
        for _ in 0..POINTS {
            let index = table.find(place).unwrap_or(own);
            if let Some(endpoint) = self.list.get(index)
                && self.takes(endpoint, key, bound, at)
            {
                return index;
            }
            // The next place of this key, as random as the first.
            place = mixed(place.wrapping_add(1));
        }
        own
    }

    /// Whether an endpoint takes a key: it is not the one to avoid, its slow start lets it, and it is
    /// below its bound.
    fn takes(&self, endpoint: &Endpoint, key: u64, bound: u32, at: &Moment<'_>) -> bool {
        if at.avoid == Some(endpoint.id) || !at.lets_key(endpoint, key) {
            return false;
        }
        if bound == 0 {
            return true;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of requests, percents")]
        let fair = at.service.in_flight().max(1) as f32 * bound as f32 / 100.0;
        endpoint.busy() < (fair * endpoint.share() / self.total).ceil()
    }
}

/// What an endpoint has to do for its weight, with the request that may come. While it starts slowly
/// it counts for more.
fn requests(endpoint: &Endpoint, at: &Moment<'_>) -> f32 {
    (endpoint.busy() / at.warmth(endpoint) + 1.0) / endpoint.share()
}

/// Connections in use for its weight: what is in flight, as over HTTP/1 and TCP each has its own.
fn connections(endpoint: &Endpoint, at: &Moment<'_>) -> f32 {
    endpoint.busy() / at.warmth(endpoint) / endpoint.share()
}

/// The key of a request; a random one where it has none.
fn key(at: &Moment<'_>) -> u64 {
    at.asked.key.unwrap_or_else(|| fastrand::u64(..))
}

fn bound(at: &Moment<'_>) -> u32 {
    match at.service.plan().strategy {
        Strategy::Ring { bound } | Strategy::Maglev { bound } => bound,
        _ => 0,
    }
}

fn in_turn(service: &Service, order: &[u16]) -> usize {
    let turn = service.turn.fetch_add(1, Relaxed);
    let at = turn.checked_rem(order.len()).unwrap_or(0);
    order.get(at).map_or(0, |index| usize::from(*index))
}
