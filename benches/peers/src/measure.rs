//! Interleaved measurement: in each round every subject runs one batch, so that whatever else the machine
//! does meanwhile falls on all of them alike; the figure of a subject is the median of its rounds.
//!
//! A batch during which the kernel took the processor away, or of which the threads did not run side by side,
//! says nothing of the subject: it is repeated, and left out of the median where enough others are whole.

use nix::sys::resource::{UsageWho, getrusage};
use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds; each gives one sample to every subject.
    pub(crate) rounds: usize,
    /// Least time of one batch: long against the clock's 25 ns, and short against the few milliseconds after
    /// which a busy kernel runs somebody else.
    pub(crate) batch: Duration,
}

/// Tries at an undisturbed batch in a round.
const TRIES: usize = 4;

/// Undisturbed rounds from which on only they count.
const ENOUGH: usize = 3;

/// One batch of one subject.
#[derive(Clone, Copy)]
struct Batch {
    took: Duration,
    undisturbed: bool,
}

/// Something that can be timed: told a count, it does its work so often and says how long that took.
pub(crate) struct Subject<'a> {
    name: String,
    /// Threads, each of which does the whole count.
    threads: u32,
    run: Box<dyn FnMut(u64) -> Batch + 'a>,
}

impl<'a> Subject<'a> {
    /// A subject for one thread. `work` does it `count` times; the loop is inside, so that the call through
    /// the box is paid once a batch.
    pub(crate) fn new(name: impl Into<String>, mut work: impl FnMut(u64) + 'a) -> Self {
        let run = move |count| {
            let before = preemptions();
            let start = Instant::now();
            work(count);
            let took = start.elapsed();
            Batch { took, undisturbed: preemptions() == before }
        };
        Self { name: name.into(), threads: 1, run: Box::new(run) }
    }

    /// A subject that `threads` threads share; `work(thread, count)` runs in each. The time is the wall
    /// clock's from the first one's start to the last one's end.
    pub(crate) fn shared(
        name: impl Into<String>,
        threads: u32,
        work: impl Fn(usize, u64) + Sync + 'a,
    ) -> Self {
        let run = move |count| {
            let waiting = AtomicU32::new(threads);
            let (waiting, work) = (&waiting, &work);
            let spans: Vec<Span> = thread::scope(|scope| {
                let running: Vec<_> = (0..threads as usize)
                    .map(|thread| scope.spawn(move || Span::of(waiting, || work(thread, count))))
                    .collect();
                running
                    .into_iter()
                    .map(|thread| thread.join().expect("a measured subject does not panic"))
                    .collect()
            });
            Span::together(&spans)
        };
        Self { name: name.into(), threads, run: Box::new(run) }
    }

    /// Adds `work` twice: for one thread, and, under [`two_threads`]'s name, for two that share it.
    pub(crate) fn both(
        subjects: &mut Vec<Subject<'a>>,
        name: &str,
        work: impl Fn(usize, u64) + Sync + Send + 'a,
    ) {
        let work = Arc::new(work);
        let alone = Arc::clone(&work);
        subjects.push(Self::new(name, move |count| alone(0, count)));
        subjects.push(Self::shared(two_threads(name), 2, move |thread, count| work(thread, count)));
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// The name of a subject's form for two threads.
pub(crate) fn two_threads(name: &str) -> String {
    format!("{name}, two threads")
}

/// When one of several threads worked.
struct Span {
    start: Instant,
    end: Instant,
    preempted: bool,
}

impl Span {
    /// Works as soon as all threads are there. They spin: a thread that sleeps wakes late.
    fn of(waiting: &AtomicU32, work: impl FnOnce()) -> Self {
        waiting.fetch_sub(1, Ordering::AcqRel);
        while waiting.load(Ordering::Acquire) > 0 {
            spin_loop();
        }
        let before = preemptions();
        let start = Instant::now();
        work();
        let end = Instant::now();
        Self { start, end, preempted: preemptions() != before }
    }

    /// Undisturbed where all of them worked at the same time for nine tenths of it.
    fn together(spans: &[Self]) -> Batch {
        let first = spans.iter().map(|span| span.start).min().expect("at least one thread");
        let last = spans.iter().map(|span| span.end).max().expect("at least one thread");
        let common_start = spans.iter().map(|span| span.start).max().expect("at least one thread");
        let common_end = spans.iter().map(|span| span.end).min().expect("at least one thread");
        let common = common_end.saturating_duration_since(common_start);
        let took = last - first;
        let undisturbed = common * 10 >= took * 9 && !spans.iter().any(|span| span.preempted);
        Batch { took, undisturbed }
    }
}

/// How often the kernel has taken the processor from this thread.
fn preemptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD)
        .expect("the kernel counts a thread's usage")
        .involuntary_context_switches()
}

/// Nanoseconds for one unit of work of each subject, in the order given: wall time over the work of all its
/// threads together, so two threads that do not disturb each other halve it. Says on standard error when the
/// machine was too busy for a figure to be trusted.
pub(crate) fn interleaved(subjects: &mut [Subject<'_>], plan: Plan) -> Vec<f64> {
    let counts: Vec<u64> = subjects.iter_mut().map(|subject| warm_up(subject, plan.batch)).collect();
    let mut samples = vec![Vec::with_capacity(plan.rounds); subjects.len()];
    for _ in 0..plan.rounds {
        for ((subject, &count), samples) in subjects.iter_mut().zip(&counts).zip(&mut samples) {
            samples.push(undisturbed_batch(subject, count));
        }
    }
    let mut doubtful = Vec::new();
    let mut figures = Vec::new();
    for ((subject, count), samples) in subjects.iter().zip(counts).zip(samples) {
        let whole: Vec<Batch> = samples.iter().copied().filter(|batch| batch.undisturbed).collect();
        let trusted = whole.len() >= ENOUGH.min(plan.rounds);
        if !trusted {
            doubtful.push(subject.name());
        }
        let picks = count as f64 * f64::from(subject.threads);
        let counted = if trusted { whole } else { samples };
        figures.push(median(counted.into_iter().map(|batch| batch.took.as_nanos() as f64 / picks).collect()));
    }
    if !doubtful.is_empty() {
        eprintln!("lb-peers: the machine is busy; put no trust in the figures of: {}", doubtful.join("; "));
    }
    figures
}

fn undisturbed_batch(subject: &mut Subject<'_>, count: u64) -> Batch {
    let mut batch = (subject.run)(count);
    for _ in 1..TRIES {
        if batch.undisturbed {
            break;
        }
        batch = (subject.run)(count);
    }
    batch
}

/// Doubles the count until a batch lasts long enough; this also warms caches and branch predictors.
fn warm_up(subject: &mut Subject<'_>, least: Duration) -> u64 {
    let mut count = 64;
    while undisturbed_batch(subject, count).took < least {
        count *= 2;
    }
    count
}

/// The middle of the samples, the mean of the two middle ones for an even number; not a number for none.
pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match samples.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => samples[middle],
        _ => f64::midpoint(samples[middle - 1], samples[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn median_of_few() {
        let table = [(vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0, 2.0, 9.0], 3.0)];
        for (samples, expected) in table {
            assert_eq!(median(samples), expected);
        }
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn every_thread_does_the_whole_count() {
        let done = [AtomicU64::new(0), AtomicU64::new(0)];
        let mut subject = Subject::shared("two", 2, |thread, count| {
            done[thread].fetch_add(count, Ordering::Relaxed);
        });
        (subject.run)(100);
        drop(subject);
        assert_eq!(done.map(AtomicU64::into_inner), [100, 100]);
    }

    #[test]
    fn threads_that_take_turns_are_no_measurement() {
        let start = Instant::now();
        let span = |from: u64, to: u64| Span {
            start: start + Duration::from_micros(from),
            end: start + Duration::from_micros(to),
            preempted: false,
        };
        for (spans, took, undisturbed) in [
            ([span(0, 100), span(2, 101)], 101, true),
            ([span(0, 100), span(90, 190)], 190, false),
            ([span(0, 100), span(200, 300)], 300, false),
            ([span(0, 100), Span { preempted: true, ..span(0, 100) }], 100, false),
        ] {
            let batch = Span::together(&spans);
            assert_eq!((batch.took, batch.undisturbed), (Duration::from_micros(took), undisturbed));
        }
    }
}
