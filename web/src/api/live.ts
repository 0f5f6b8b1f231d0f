// Keeps the store true: everything once, then only what changed.
//
// The event stream says *that* something changed; what changed is fetched, coalesced, and never
// faster than the daemon answers. A hidden tab lets go of its stream (a browser has six per host) and
// catches up when it is seen again. `EventSource` resumes after the last event by itself.

import { api, ApiError } from './client';
import {
  connection,
  endedLately,
  inSight,
  jobs,
  loggedOut,
  nodes,
  overview,
  projects,
  setAll,
  setJobs,
  tellServerTime,
  tick,
  top,
  waiting,
} from './store';
import type { JobView } from './types';

const COALESCE_MS = 200;
const REST_FACTOR = 3; // after a refetch that took 100 ms, the next comes 300 ms later at the earliest
const SINGLE_FETCHES_MAX = 24; // more changed jobs than this: the whole live list is cheaper
const PAGE = 1000;
const LIVE_JOBS_MAX = 20_000; // beyond this the page shows the newest and says so by its counts
const TOP_MS = 2_000;
const TOP_REST_FACTOR = 10; // sensors take at most a tenth of the time
const REASONS_MS = 5_000;
const REASONS_MAX = 48;
const RETRY_MS = 2_000;
const HIDDEN_MS_MAX = 20_000;

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

class Live {
  private stream: EventSource | null = null;
  private lastId = '';
  private readonly dirty = new Set<string>();
  private dirtyNodes = false;
  private dirtyProjects = false;
  private flushing = false;
  private loaded = false;
  private hiddenTimer = 0;
  private askReasons: () => void = () => undefined;

  start(): void {
    document.addEventListener('visibilitychange', () => this.seen());
    setInterval(tick, 1000);
    inSight.subscribe((ids) => {
      // Someone scrolled to jobs of which nobody has said yet why they wait.
      if (ids.every((id) => jobs.peek()?.get(id)?.waits)) return;
      setTimeout(() => this.askReasons(), COALESCE_MS);
    });
    void this.open();
    void this.pollTop();
    void this.pollReasons();
  }

  /** After a login, or when someone presses "try again". */
  async open(): Promise<void> {
    this.stream?.close();
    this.stream = null;
    connection.value = 'wait';
    while (!(await this.load())) {
      if (loggedOut.value) return;
      connection.value = 'off';
      await sleep(RETRY_MS);
    }
    this.listen();
  }

  private async load(): Promise<boolean> {
    try {
      // First of all: what happens while the rest is fetched is told by the stream once more.
      const now = await api.overview();
      this.lastId = String(now.seq);
      const [allNodes, live, ended] = await Promise.all([
        api.nodes(),
        liveJobs(),
        api.jobs({ phase: 'ended', limit: 50 }),
      ]);
      tellServerTime(now.now_ms);
      overview.value = now;
      setAll(live, allNodes);
      endedLately.value = [...ended.jobs].sort((a, b) => b.ended_ms - a.ended_ms);
      loggedOut.value = false;
      this.loaded = true;
      void this.refresh(async () => (projects.value = await api.projects()));
      return true;
    } catch (error) {
      loggedOut.value = error instanceof ApiError && error.status === 401;
      return false;
    }
  }

  private listen(): void {
    const resume = this.lastId ? `?after=${this.lastId}` : '';
    const stream = new EventSource(`/v1/events${resume}`);
    this.stream = stream;
    let cut = false;
    stream.onopen = () => {
      connection.value = 'on';
      // A daemon that was restarted may have come back with other nodes.
      if (cut) this.mark({ nodes: true });
      cut = false;
    };
    stream.onerror = () => {
      connection.value = 'off';
      cut = true;
      if (stream.readyState === EventSource.CLOSED && this.stream === stream) {
        setTimeout(() => void this.open(), RETRY_MS);
      }
    };
    stream.addEventListener('job', (event) => {
      this.lastId = event.lastEventId || this.lastId;
      const told = JSON.parse(String(event.data)) as { id?: string; job?: { id: string } | string };
      const id = typeof told.job === 'string' ? told.job : (told.job?.id ?? told.id);
      if (id) this.mark({ job: id });
    });
    // The journal was pruned while nobody listened: only a fresh picture is true.
    stream.addEventListener('gap', () => void this.open());
    stream.addEventListener('node', (event) => {
      this.lastId = event.lastEventId || this.lastId;
      this.mark({ nodes: true });
    });
    stream.addEventListener('project', (event) => {
      this.lastId = event.lastEventId || this.lastId;
      this.mark({ projects: true });
    });
    // Quotas, zones, reservations, the policy: they change what projects may hold, and why jobs wait.
    stream.addEventListener('setting', (event) => {
      this.lastId = event.lastEventId || this.lastId;
      this.mark({ projects: true });
      this.askReasons();
    });
  }

  mark(what: { job?: string; nodes?: boolean; projects?: boolean }): void {
    if (what.job) this.dirty.add(what.job);
    this.dirtyNodes ||= what.nodes ?? false;
    this.dirtyProjects ||= what.projects ?? false;
    if (!this.flushing) void this.flush();
  }

  private async flush(): Promise<void> {
    this.flushing = true;
    await sleep(COALESCE_MS);
    while (this.dirty.size || this.dirtyNodes || this.dirtyProjects) {
      const startedMs = performance.now();
      await this.refresh(() => this.fetchDirty());
      const tookMs = performance.now() - startedMs;
      await sleep(Math.max(COALESCE_MS, REST_FACTOR * tookMs));
    }
    this.flushing = false;
  }

  private async fetchDirty(): Promise<void> {
    const ids = [...this.dirty];
    this.dirty.clear();
    const fetches = [ids.length > SINGLE_FETCHES_MAX ? this.fetchMany(ids) : fetchEach(ids)];
    if (this.dirtyNodes) {
      this.dirtyNodes = false;
      fetches.push(api.nodes().then((now) => void (nodes.value = now)));
    }
    if (this.dirtyProjects || ids.length) {
      this.dirtyProjects = false;
      fetches.push(api.projects().then((now) => void (projects.value = now)));
    }
    await Promise.all(fetches);
    const now = await api.overview();
    tellServerTime(now.now_ms);
    overview.value = now;
  }

  private async fetchMany(ids: readonly string[]): Promise<void> {
    const [live, ended] = await Promise.all([liveJobs(), api.jobs({ phase: 'ended', limit: 100 })]);
    const alive = new Set(live.map((job) => job.id));
    const gone = [...(jobs.value?.keys() ?? [])].filter((id) => !alive.has(id));
    const told = new Set([...ids, ...gone]);
    const news = [...live, ...ended.jobs].filter((job) => told.has(job.id));
    setJobs(news, gone);
  }

  /** Sensors, only while someone looks. */
  private async pollTop(): Promise<never> {
    for (;;) {
      const startedMs = performance.now();
      if (!document.hidden && this.loaded) {
        await this.refresh(async () => (top.value = await api.top()));
      }
      const tookMs = performance.now() - startedMs;
      await sleep(Math.max(TOP_MS, TOP_REST_FACTOR * tookMs));
    }
  }

  /** Why the waiting wait depends on everyone else: what is in sight, and the head, asked anew. */
  private async pollReasons(): Promise<never> {
    for (;;) {
      await new Promise<void>((done) => {
        this.askReasons = done;
        setTimeout(done, REASONS_MS);
      });
      if (document.hidden || !this.loaded) continue;
      const known = jobs.value;
      const head = waiting.value.slice(0, SINGLE_FETCHES_MAX / 2).map((job) => job.id);
      const seen = inSight.value.filter((id) => known?.get(id)?.phase === 'waiting');
      const ids = [...new Set([...head, ...seen])].slice(0, REASONS_MAX);
      if (ids.length) await this.refresh(() => fetchEach(ids));
    }
  }

  private async refresh(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) loggedOut.value = true;
      else if (error instanceof ApiError && error.status !== 0) console.warn(error.message);
      // Not reachable: the stream notices too, and says so.
    }
  }

  private seen(): void {
    clearTimeout(this.hiddenTimer);
    if (!document.hidden) {
      if (connection.value === 'paused') void this.open();
      return;
    }
    this.hiddenTimer = window.setTimeout(() => {
      this.stream?.close();
      this.stream = null;
      connection.value = 'paused';
    }, HIDDEN_MS_MAX);
  }
}

async function fetchEach(ids: readonly string[]): Promise<void> {
  const found: JobView[] = [];
  const gone: string[] = [];
  await Promise.all(
    ids.map(async (id) => {
      try {
        found.push(await api.job(id));
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) gone.push(id);
        else throw error;
      }
    }),
  );
  setJobs(found, gone);
}

async function liveJobs(): Promise<JobView[]> {
  const all: JobView[] = [];
  let before: number | null = null;
  do {
    const page: { jobs: JobView[]; next: number | null } = await api.jobs({
      phase: 'live',
      limit: PAGE,
      ...(before === null ? {} : { before }),
    });
    all.push(...page.jobs);
    before = page.next;
  } while (before !== null && all.length < LIVE_JOBS_MAX);
  return all;
}

export const live = new Live();
