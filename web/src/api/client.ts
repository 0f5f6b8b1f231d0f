// Calls to /v1. Errors come as `ApiError` with the server's own words; the cookie travels by itself.

import type {
  EventView,
  JobPage,
  JobView,
  Overview,
  Problem,
  ProjectView,
  Report,
  Top,
  Why,
} from './types';

const CALL_MS_MAX = 20_000; // a page never waits for a hung daemon without saying so

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
  ) {
    super(problem.detail ?? problem.title);
  }
}

/** Status 0 when the daemon could not be reached at all. */
async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const limit = AbortSignal.timeout(CALL_MS_MAX);
  const signal = init.signal ? AbortSignal.any([init.signal, limit]) : limit;
  let answer: Response;
  try {
    answer = await fetch(`/v1${path}`, { ...init, signal, credentials: 'same-origin' });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, { title: 'not reachable', status: 0 });
  }
  if (answer.ok) return answer;
  let problem: Problem = { title: answer.statusText, status: answer.status };
  try {
    problem = { ...problem, ...((await answer.json()) as Problem) };
  } catch {
    // A proxy's own error page: the status says enough.
  }
  throw new ApiError(answer.status, problem);
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const answer = await call(path, signal ? { signal } : {});
  return (await answer.json()) as T;
}

async function post<T>(path: string): Promise<T> {
  const headers = { 'Content-Type': 'application/json' };
  const answer = await call(path, { method: 'POST', headers, body: '{}' });
  return (await answer.json()) as T;
}

const at = (id: string): string => `/jobs/${encodeURIComponent(id)}`;

export interface JobsQuery {
  phase?: string;
  limit?: number;
  before?: number;
}

export interface LogPart {
  bytes: Uint8Array;
  /** Where the next byte will be. */
  next: number;
}

/** `tail` lines of the newest, or `limit` bytes from `offset`. */
export type LogSpan = { tail: number } | { offset: number; limit: number };

export const api = {
  overview: () => get<Overview>('/overview'),
  top: () => get<Top>('/top'),
  projects: async () => (await get<{ projects: ProjectView[] }>('/projects')).projects,
  job: (id: string, signal?: AbortSignal) => get<JobView>(at(id), signal),
  why: (id: string) => get<Why>(`${at(id)}/why`),
  request: (id: string) => get<Record<string, unknown>>(`${at(id)}/request`),
  stop: (id: string) => post<JobView>(`${at(id)}/stop`),
  requeue: (id: string) => post<JobView>(`${at(id)}/requeue`),

  jobs: (query: JobsQuery, signal?: AbortSignal) => {
    const words = new URLSearchParams();
    for (const [key, value] of Object.entries(query)) words.set(key, String(value));
    return get<JobPage>(`/jobs?${words.toString()}`, signal);
  },

  events: async (id: string, after: number) => {
    const path = `${at(id)}/events?after=${after}&limit=1000`;
    return (await get<{ events: EventView[] }>(path)).events;
  },

  reports: (id: string, member: number, offset: number, signal?: AbortSignal) => {
    const path = `${at(id)}/reports?member=${member}&offset=${offset}`;
    return get<{ offset: number; reports: Report[] }>(path, signal);
  },

  log: async (id: string, member: number, span: LogSpan, signal?: AbortSignal) => {
    const words = new URLSearchParams({ member: String(member) });
    for (const [key, value] of Object.entries(span)) words.set(key, String(value));
    const answer = await call(`${at(id)}/log?${words.toString()}`, signal ? { signal } : {});
    const bytes = new Uint8Array(await answer.arrayBuffer());
    return { bytes, next: Number(answer.headers.get('Madang-Offset') ?? 0) } satisfies LogPart;
  },
};
