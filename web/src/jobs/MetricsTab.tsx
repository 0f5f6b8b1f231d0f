// What the devices did, as heat strips, and beside them every number that the job reports, a plot each.
// A plot exists only while it is in sight.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import { api } from '../api/client';
import { isLive } from '../api/store';
import type { JobView } from '../api/types';
import { clock, count, figure } from '../format';
import { t } from '../i18n';
import { query, setQuery } from '../router';
import { InSight } from '../ui/InSight';
import { Command, Empty, Segmented } from '../ui/parts';
import { Chart, colorOf, type Line } from './Chart';
import { GpuMetrics } from './GpuMetrics';
import { MemberSeries, smoothed, type Axis } from './series';

const POLL_MS = 2_000;
const MEMBERS_MAX = 8; // more lines than that say nothing
const HALF = 12; // reports

/** `?member=0,3`: which members are drawn. */
function chosenMembers(job: JobView): number[] {
  const asked = (query.value.get('member') ?? '0').split(',').map(Number);
  const fine = asked.filter((one) => Number.isInteger(one) && one >= 0 && one < job.members);
  return fine.length ? [...new Set(fine)].slice(0, MEMBERS_MAX) : [0];
}

interface Feed {
  series: ReadonlyMap<number, MemberSeries>;
  loaded: boolean;
}

/** Follows the chosen members' reports, each from where it was left. */
export function useReports(job: JobView, members: readonly number[]): Feed {
  const store = useRef(new Map<number, { series: MemberSeries; offset: number }>());
  const [feed, setFeed] = useState<Feed>({ series: new Map(), loaded: false });
  useEffect(() => {
    const stop = new AbortController();
    let timer = 0;
    const read = async (member: number): Promise<number> => {
      const known = store.current.get(member) ?? { series: new MemberSeries(), offset: 0 };
      store.current.set(member, known);
      const part = await api.reports(job.id, member, known.offset, stop.signal);
      known.series.add(part.reports);
      known.offset = part.offset;
      return part.reports.length;
    };
    const round = async (): Promise<void> => {
      try {
        const news = document.hidden ? [] : await Promise.all(members.map(read));
        const series = new Map(members.map((m) => [m, store.current.get(m)!.series]));
        if (news.some(Boolean) || !feed.loaded) setFeed({ series, loaded: true });
      } catch {
        if (stop.signal.aborted) return; // else the daemon is away, and the next round tries again
      }
      if (isLive(job)) timer = window.setTimeout(() => void round(), POLL_MS);
    };
    void round();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [job.id, job.phase, job.attempt, members.join()]);
  return feed;
}

const EXAMPLE = 'import madang\n\nmadang.report(step=step, loss=loss.item())';

export function MetricsTab({ job }: { job: JobView }) {
  const devices = job.running_ms > 0 && job.gpus > 0;
  return (
    <div class={devices ? 'metrics' : ''}>
      {devices && <GpuMetrics job={job} />}
      <Reports job={job} />
    </div>
  );
}

function Reports({ job }: { job: JobView }) {
  const members = chosenMembers(job);
  const feed = useReports(job, members);
  const axis: Axis = query.value.get('axis') === 'time' ? 'time' : 'step';
  const smooth = query.value.get('smooth') === '1';
  const keys = useMemo(
    () => [...new Set([...feed.series.values()].flatMap((series) => series.keys()))],
    [feed],
  );
  if (!feed.loaded) return null;
  if (!keys.length && job.members <= 1) return <NoReports />;
  const all = [...feed.series.values()];
  const reports = all.reduce((sum, one) => sum + one.count, 0);
  const dropped = all.reduce((sum, one) => sum + one.dropped, 0);
  return (
    <section class="reports" aria-label={t('metrics.reported')}>
      <div class="toolbar plain">
        <Members job={job} chosen={members} />
        <Segmented
          label={t('metrics.axis')}
          value={axis}
          options={(['step', 'time'] as const).map((value) => ({
            value,
            text: t(`metrics.${value}`),
          }))}
          choose={(value) => setQuery({ axis: value === 'step' ? null : value })}
        />
        <label class="check">
          <input
            type="checkbox"
            checked={smooth}
            onChange={() => setQuery({ smooth: smooth ? null : '1' })}
          />
          {t('metrics.smooth')}
        </label>
        <span class="grow" />
        <span class="quiet">
          {t('metrics.points', { n: reports })}
          {dropped > 0 && `, ${t('metrics.dropped', { n: dropped })}`}
        </span>
      </div>
      {keys.length ? (
        <div class="plots">
          {keys.map((key) => (
            <Plot key={key} name={key} feed={feed} members={members} axis={axis} smooth={smooth} />
          ))}
        </div>
      ) : (
        <NoReports />
      )}
    </section>
  );
}

function NoReports() {
  return (
    <Empty title={t('metrics.none')}>
      <p>{t('metrics.noneText')}</p>
      <Command text={EXAMPLE} />
    </Empty>
  );
}

function Members({ job, chosen }: { job: JobView; chosen: readonly number[] }) {
  if (job.members === 1) return null;
  const toggle = (member: number): void => {
    const next = chosen.includes(member)
      ? chosen.filter((one) => one !== member)
      : [...chosen, member].slice(-MEMBERS_MAX);
    const text = next.sort((a, b) => a - b).join(',');
    setQuery({ member: text === '0' || !text ? null : text });
  };
  const offered = Array.from({ length: Math.min(job.members, MEMBERS_MAX) }, (_, member) => member);
  const shown = [...new Set([...offered, ...chosen])];
  return (
    <div class="segmented" role="group" aria-label={t('metrics.member')}>
      <span class="segmented-label" aria-hidden="true">
        {t('metrics.member')}
      </span>
      <div class="segmented-options">
        {shown.map((member) => {
          const at = chosen.indexOf(member);
          return (
            <button
              key={member}
              type="button"
              aria-pressed={at >= 0}
              onClick={() => toggle(member)}
            >
              {at >= 0 && chosen.length > 1 && (
                <i class="line-key" style={{ background: `var(--${colorOf(at)})` }} />
              )}
              {member}
            </button>
          );
        })}
      </div>
    </div>
  );
}

interface PlotProps {
  name: string;
  feed: Feed;
  members: readonly number[];
  axis: Axis;
  smooth: boolean;
}

export function Plot({ name, feed, members, axis, smooth }: PlotProps) {
  const [at, setAt] = useState<{ x: number; y: number } | null>(null);
  const lines = useMemo<Line[]>(
    () =>
      members.map((member) => {
        const points = feed.series.get(member)?.points(name, axis) ?? { x: [], y: [] };
        return { member, points: smoothed(points, smooth ? HALF : 0) };
      }),
    [feed, members.join(), axis, smooth, name],
  );
  const first = lines.find((line) => line.points.y.length)?.points;
  return (
    <section class="plot-card">
      <div class="plot-head">
        <h2 class="mono">{name}</h2>
        {first && <Reading points={first} at={at} axis={axis} />}
      </div>
      <InSight height={168}>
        <Chart title={name} lines={lines} axis={axis} tell={setAt} />
      </InSight>
    </section>
  );
}

/** What the line says: the point under the cursor, else where it stands and its lowest. */
function Reading(props: {
  points: { x: number[]; y: number[] };
  at: { x: number; y: number } | null;
  axis: Axis;
}) {
  const { points, at, axis } = props;
  if (at) {
    const where =
      axis === 'time' ? clock(at.x * 1000, Date.now()) : t('job.atStep', { step: count(at.x) });
    return (
      <span>
        <b>{figure(at.y)}</b> {where}
      </span>
    );
  }
  let low = points.y[0]!;
  for (const y of points.y) if (y < low) low = y;
  return (
    <span>
      <b>{figure(points.y.at(-1)!)}</b> {t('metrics.min', { value: figure(low) })}
    </span>
  );
}
