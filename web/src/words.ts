// Sentences about jobs and devices that several pages need.

import type { JobView, SeatView } from './api/types';
import { count, duration } from './format';
import { t } from './i18n';
import { units } from './fleet/state';

/** "5,120 GPUs", or CPU slots on a machine without GPUs. */
export function devices(n: number): string {
  return units.value.isSlots ? t('unit.slots', { n }) : t('unit.gpus', { n });
}

/** "4 × 8 GPUs". */
export function sizeOf(job: JobView): string {
  if (job.gpus === 0) return job.members === 1 ? t('size.cpu') : `${job.members} × CPU`;
  const each = job.gpus < 1 ? `${count(job.gpus)} GPU` : devices(job.gpus);
  return job.members === 1 ? each : t('size.gang', { members: count(job.members), gpus: each });
}

export function timeIn(job: JobView, nowMs: number): number {
  const end = job.ended_ms || nowMs;
  if (job.phase === 'waiting' || !job.running_ms) return Math.max(0, end - job.submitted_ms);
  return Math.max(0, end - job.running_ms);
}

/** "Running", "Failed, exit 1". */
export function endText(job: JobView): string {
  const phase = t(`phase.${job.phase}`);
  if (job.phase !== 'failed' || !job.exit_code) return phase;
  return `${phase}, ${t('job.exit', { code: job.exit_code })}`;
}

/** "Running 9 h 12 m", "Failed, exit 1". */
export function phaseText(job: JobView, nowMs: number): string {
  const phase = endText(job);
  return job.ended_ms ? phase : t('job.phaseFor', { phase, time: duration(timeIn(job, nowMs)) });
}

export function seatText(seat: SeatView): string {
  if (seat.exit?.lost) return t('job.memberLost');
  if (seat.exit?.signal) return t('job.memberSignal', { signal: seat.exit.signal });
  if (seat.exit) {
    return seat.exit.code === 0 ? t('job.memberOk') : t('job.memberExit', { code: seat.exit.code });
  }
  return seat.started ? t('job.memberRunning') : t('job.memberStarting');
}

export function startText(earliestMs: number, nowMs: number): string {
  if (!earliestMs) return t('queue.unknown');
  if (earliestMs <= nowMs) return t('queue.now');
  return t('queue.in', { time: duration(earliestMs - nowMs) });
}
