// The shapes of /v1, as the daemon writes them. Times are Unix milliseconds, 0 = not yet.

export const LIVE_PHASES = ['waiting', 'starting', 'running', 'stopping'] as const;
export const ENDED_PHASES = ['succeeded', 'failed', 'stopped'] as const;
export type Phase = (typeof LIVE_PHASES)[number] | (typeof ENDED_PHASES)[number];

export interface SeatExit {
  code: number;
  signal: number;
  lost: boolean;
}

export interface SeatView {
  rank: number;
  node: string;
  gpus: number[];
  started: boolean;
  exit: SeatExit | null;
}

export interface Waits {
  code: string;
  text: string;
  earliest_ms: number;
  basis: string;
}

export type Severity = 'critical' | 'warning' | 'info';

export interface BrokenView {
  rule: string;
  severity: Severity;
  since_ms: number;
  text: string;
}

export interface JobView {
  id: string;
  n: number;
  name: string;
  project: string;
  owner: string;
  phase: Phase;
  reason: string;
  provisioning: string;
  category: string;
  purpose: string;
  priority: number;
  members: number;
  /** GPUs per member; below 1 it is a share of one. */
  gpus: number;
  profile: string;
  command: string[];
  image: string;
  code: string;
  env_names: string[];
  time_ms: number;
  grace_ms: number;
  retries: number;
  failures: number;
  attempt: number;
  allocation: string | null;
  submitted_ms: number;
  running_ms: number;
  ended_ms: number;
  exit_code: number | null;
  seats: SeatView[];
  memo: string;
  /** That it holds idle GPUs; empty if nothing is wrong. */
  warning?: string;
  /** Violation rules that it breaks now, gravest first; an older daemon does not say. */
  broken?: BrokenView[];
  forked_from: string;
  waits: Waits | null;
}

export interface GpuReading {
  index: number;
  util_percent: number | null;
  memory_used_mib: number | null;
  power_w: number | null;
  temperature_c: number | null;
}

export interface NodeReading {
  id: string;
  cpu_percent: number | null;
  memory_used_mib: number | null;
  gpus: GpuReading[];
}

export interface MemberReading {
  job: string;
  allocation: string;
  rank: number;
  cpu_percent: number | null;
  memory_mib: number | null;
}

export interface Top {
  nodes: NodeReading[];
  members: MemberReading[];
}

export interface Overview {
  /** Events after this sequence tell what has changed since. */
  seq: number;
  now_ms: number;
  version: string;
  cluster: string;
  counts: Partial<Record<Phase, number>>;
  gpus: { total: number; held: number; free: number; unhealthy: number };
  nodes: number;
}

export interface ProjectView {
  id: string;
  workspace: string;
  quota_gpus: number | null;
  used_gpus: number;
}

export interface EventView {
  seq: number;
  at_ms: number;
  kind: string;
  job: string | null;
  node: string | null;
  text: string;
}

export interface Why {
  code: string;
  text: string;
  numbers: Record<string, number | string>;
  earliest_ms: number;
  basis: string;
  /** What is nearest to it and would start now. */
  try?: string[];
}

export type Report = Record<string, unknown> & { t_ms?: number; step?: number };

export interface JobPage {
  jobs: JobView[];
  next: number | null;
}

/** RFC 9457. */
export interface Problem {
  title: string;
  status: number;
  detail?: string;
  code?: string;
  try?: string[];
}
