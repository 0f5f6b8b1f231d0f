// Who may have what and who had it: quotas, workspaces, reservations, kept rooms, usage reports.

import { get } from './client';

export interface QuotaView {
  /** `project:NAME` or `workspace:NAME`. */
  owner: string;
  /** Machine group; `*` is all. */
  group: string;
  provisioning: string;
  guaranteed_gpus: number;
  limit_gpus: number | null;
  held_gpus: number;
}

export interface WorkspaceView {
  id: string;
  projects: string[];
  held_gpus: number;
}

export interface ReservationView {
  id: string;
  project: string;
  gpus: number;
  members: number;
  profile: string;
  begin_ms: number;
  end_ms: number;
  by: string;
  state: 'waiting' | 'open' | 'over';
  held_gpus: number;
}

/** Room kept for a job to come. */
export interface HoleView {
  id: string;
  members: number;
  gpus: number;
  within: string;
  project: string;
  by: string;
  until_ms: number;
  is_free: boolean;
  text: string;
}

export interface UsageLine {
  group: Record<string, string>;
  asked_gpu_h: number;
  held_gpu_h: number;
  waited_gpu_h: number;
  measured_gpu_h: number;
  used_gpu_h: number;
  util_pct: number | null;
  wasted_gpu_h: number;
  failed_gpu_h: number;
  stranded_gpu_h: number;
  capacity_gpu_h: number | null;
  held_pct: number | null;
  submitted: number;
  ended: number;
  waiting: number;
  preemptions: number;
  waits: { count: number; p50_ms: number; p90_ms: number; p99_ms: number };
}

export interface UsageReport {
  since_ms: number;
  until_ms: number;
  begins_ms: number;
  total: UsageLine;
  lines: UsageLine[];
}

export interface IdleProject {
  project: string;
  idle_gpu_h: number;
  measured_gpu_h: number;
  warned: number;
  reclaimed: { job: string; gpus: number }[];
}

const words = (given: Record<string, string>): string => new URLSearchParams(given).toString();

export const tenancy = {
  quotas: async () => (await get<{ quotas: QuotaView[] }>('/quotas')).quotas,
  workspaces: async () => (await get<{ workspaces: WorkspaceView[] }>('/workspaces')).workspaces,
  reservations: async () =>
    (await get<{ reservations: ReservationView[] }>('/reservations')).reservations,
  holes: async () => (await get<{ holes: HoleView[] }>('/holes')).holes,
  usage: (since: string, by: string, signal: AbortSignal) =>
    get<UsageReport>(`/reports/usage?${words({ since, by })}`, signal),
  idle: async (since: string, signal: AbortSignal) =>
    (await get<{ projects: IdleProject[] }>(`/reports/idle?${words({ since })}`, signal)).projects,
  /** For a link: the browser downloads it. */
  csvHref: (since: string, by: string) =>
    `/v1/reports/usage?${words({ since, by, format: 'csv' })}`,
};
