// Keeps the store true: everything once, then only what changed.
//
// Devices and their readings come over the one live line (liveSocket.ts), which also says *which* jobs
// changed; their texts are fetched, coalesced, and never faster than the daemon answers. A hidden tab
// lets go of the line and catches up when it is seen again. There is no event stream: a browser has
// six of those per host, and the seventh tab would hang.

import { api, ApiError } from './client';
import type { News } from './liveMoment';
import { line, liveSocket, newest, type Line } from './liveSocket';
import {
  connection,
  endedLately,
  inSight,
  jobs,
  loggedOut,
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
  private readonly dirty = new Set<string>();
  private dirtyAll = false;
  private dirtyProjects = false;
  private flushing = false;
  private loaded = false;
  private loading = false;
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
    liveSocket.onNews = (news) => this.hear(news);
    line.subscribe((at) => this.show(at));
    newest.subscribe((moment) => {
      if (moment) tellServerTime(moment.atMs);
    });
    void this.open();
    void this.pollTop();
    void this.pollReasons();
  }

  /** After a login, or when someone presses "try again". */
  async open(): Promise<void> {
    if (this.loading) return;
    this.loading = true;
    this.loaded = false;
    connection.value = 'wait';
    // Both at once: the map needs nothing but the line, the rest of the page follows.
    liveSocket.open();
    while (!(await this.load()) && !loggedOut.value) {
      connection.value = 'off';
      await sleep(RETRY_MS);
    }
    this.loading = false;
    if (loggedOut.value) liveSocket.close();
    else this.show(line.peek());
  }

  private async load(): Promise<boolean> {
    try {
      // First of all: what happens while the rest is fetched is told by the line once more.
      const now = await api.overview();
      loggedOut.value = false;
      tellServerTime(now.now_ms);
      overview.value = now;
      const [live, ended] = await Promise.all([
        liveJobs(),
        api.jobs({ phase: 'ended', limit: 50 }),
      ]);
      setAll(live);
      endedLately.value = [...ended.jobs].sort((a, b) => b.ended_ms - a.ended_ms);
      this.loaded = true;
      void this.refresh(async () => (projects.value = await api.projects()));
      return true;
    } catch (error) {
      loggedOut.value = error instanceof ApiError && error.status === 401;
      return false;
    }
  }

  private show(at: Line): void {
    if (loggedOut.peek()) return;
    if (at === 'off' && this.loaded) void this.refresh(() => api.overview()); // still logged in?
    connection.value = at;
  }

  private hear(news: News): void {
    if (!this.loaded) return; // it is being fetched as it is now
    for (const id of news.jobs) this.dirty.add(id);
    this.dirtyAll ||= news.all;
    this.dirtyProjects ||= news.others || news.all;
    if (news.others) this.askReasons(); // quotas, zones, the policy: why jobs wait may be new
    this.flushSoon();
  }

  private flushSoon(): void {
    if (!this.flushing) void this.flush();
  }

  private async flush(): Promise<void> {
    this.flushing = true;
    await sleep(COALESCE_MS);
    while (this.dirty.size || this.dirtyAll || this.dirtyProjects) {
      const startedMs = performance.now();
      await this.refresh(() => this.fetchDirty());
      const tookMs = performance.now() - startedMs;
      await sleep(Math.max(COALESCE_MS, REST_FACTOR * tookMs));
    }
    this.flushing = false;
  }

  private async fetchDirty(): Promise<void> {
    const ids = [...this.dirty];
    const many = this.dirtyAll || ids.length > SINGLE_FETCHES_MAX;
    this.dirty.clear();
    this.dirtyAll = false;
    const fetches: Promise<unknown>[] = [many ? this.fetchMany(ids) : fetchEach(ids)];
    if (this.dirtyProjects || ids.length) {
      this.dirtyProjects = false;
      fetches.push(api.projects().then((now) => void (projects.value = now)));
    }
    await Promise.all(fetches);
    overview.value = await api.overview();
  }

  private async fetchMany(ids: readonly string[]): Promise<void> {
    const [live, ended] = await Promise.all([liveJobs(), api.jobs({ phase: 'ended', limit: 100 })]);
    const alive = new Set(live.map((job) => job.id));
    const gone = [...(jobs.value?.keys() ?? [])].filter((id) => !alive.has(id));
    const told = new Set([...ids, ...gone]);
    const known = jobs.value;
    const changed = (job: JobView): boolean => {
      const before = known?.get(job.id);
      return told.has(job.id) || before?.phase !== job.phase || before.attempt !== job.attempt;
    };
    setJobs([...live.filter(changed), ...ended.jobs.filter((job) => told.has(job.id))], gone);
  }

  /** What members use, only while someone looks at a job: devices come over the line. */
  private async pollTop(): Promise<never> {
    for (;;) {
      const startedMs = performance.now();
      if (!document.hidden && this.loaded && window.location.pathname.startsWith('/jobs/')) {
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
      // Not reachable: the line notices too, and says so.
    }
  }

  private seen(): void {
    clearTimeout(this.hiddenTimer);
    if (!document.hidden) {
      if (line.value === 'paused' && !loggedOut.value) liveSocket.open();
      return;
    }
    this.hiddenTimer = window.setTimeout(() => liveSocket.close(), HIDDEN_MS_MAX);
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
