// What was held, used, idle, thrown away and waited for over a time, by whom; and the same as CSV.

import { useEffect, useState } from 'preact/hooks';

import { ApiError } from '../api/client';
import { tenancy, type IdleProject, type UsageLine, type UsageReport } from '../api/tenancy';
import { clock, count, duration, figure } from '../format';
import { t } from '../i18n';
import { Icon } from '../ui/Icon';
import { Kpi } from '../ui/parts';
import { VirtualTable, type Column } from '../ui/VirtualTable';

export const SINCES = ['24h', '7d', '30d'] as const;
export type Since = (typeof SINCES)[number];
export const BYS = ['project', 'workspace', 'owner', 'model', 'day'] as const;
export type By = (typeof BYS)[number];

interface Found {
  report: UsageReport | null;
  idle: ReadonlyMap<string, IdleProject>;
  problem: string;
}

const NOTHING: Found = { report: null, idle: new Map(), problem: '' };

function useReport(since: Since, by: By): Found {
  const [found, setFound] = useState<Found & { of: string }>({ ...NOTHING, of: '' });
  useEffect(() => {
    const stop = new AbortController();
    const of = `${since} ${by}`;
    Promise.all([tenancy.usage(since, by, stop.signal), tenancy.idle(since, stop.signal)]).then(
      ([report, idle]) =>
        setFound({ of, report, idle: new Map(idle.map((one) => [one.project, one])), problem: '' }),
      (error: unknown) => {
        if (stop.signal.aborted) return;
        const problem = error instanceof ApiError && error.status ? error.message : '';
        setFound({ ...NOTHING, of, problem });
      },
    );
    return () => stop.abort();
  }, [since, by]);
  return found.of === `${since} ${by}` ? found : NOTHING;
}

export function Window({ since, by }: { since: Since; by: By }) {
  const { report, idle, problem } = useReport(since, by);
  if (problem) {
    return (
      <p class="notice" role="alert">
        {t('error.title')}: <span lang="en">{problem}</span>
      </p>
    );
  }
  if (!report) {
    return (
      <p class="quiet" aria-busy="true">
        {t('usage.reading')}
      </p>
    );
  }
  const lines = [...report.lines].sort((a, b) =>
    by === 'day' ? nameOf(b, by).localeCompare(nameOf(a, by)) : b.held_gpu_h - a.held_gpu_h,
  );
  return (
    <>
      <Totals report={report} idle={idle} />
      {report.begins_ms > report.since_ms && (
        <p class="quiet">{t('usage.begins', { time: clock(report.begins_ms, report.until_ms) })}</p>
      )}
      <div class="usage-table">
        <VirtualTable
          label={t('usage.window')}
          rows={lines}
          columns={columns(by, by === 'project' ? idle : null, lines)}
          rowHeight={36}
          keyOf={(line) => nameOf(line, by)}
          foot={!lines.length && <p class="usage-none">{t('usage.nothing')}</p>}
        />
      </div>
      <a
        class="button csv"
        href={tenancy.csvHref(since, by)}
        download={`usage-${since}-by-${by}.csv`}
      >
        <Icon name="down" />
        {t('usage.csv')}
      </a>
    </>
  );
}

const nameOf = (line: UsageLine, by: By): string => line.group[by] ?? '';

/** GPU hours: a hundredth is half a minute of one GPU. */
function hours(value: number): string {
  if (value > 0 && value < 0.01) return '< 0.01';
  return count(value >= 100 ? Math.round(value) : value);
}

function Totals({ report, idle }: { report: UsageReport; idle: Found['idle'] }) {
  const { total } = report;
  const idleHours = [...idle.values()].reduce((sum, one) => sum + one.idle_gpu_h, 0);
  return (
    <div class="kpis">
      <Kpi
        label={t('usage.held')}
        value={hours(total.held_gpu_h)}
        note={
          total.held_pct === null
            ? ''
            : t('usage.ofCapacity', { share: `${figure(total.held_pct)}%` })
        }
      />
      <Kpi
        label={t('usage.used')}
        value={total.util_pct === null ? '–' : `${figure(Math.round(total.util_pct))}%`}
        note={total.util_pct === null ? t('usage.notMeasured') : t('usage.ofMeasured')}
      />
      <Kpi label={t('usage.idle')} value={hours(idleHours)} note={t('usage.idleNote')} />
      <Kpi
        label={t('usage.waited')}
        value={hours(total.waited_gpu_h)}
        note={
          !total.waits.count
            ? ''
            : total.waits.p90_ms < 1000
              ? t('usage.waitedNone')
              : t('usage.waitedNote', { time: duration(total.waits.p90_ms) })
        }
      />
      <Kpi
        label={t('usage.wasted')}
        value={hours(total.wasted_gpu_h)}
        note={t('usage.wastedNote', { n: total.preemptions })}
      />
    </div>
  );
}

function columns(
  by: By,
  idle: Found['idle'] | null,
  lines: readonly UsageLine[],
): Column<UsageLine>[] {
  const most = Math.max(1e-9, ...lines.map((line) => line.held_gpu_h));
  const found: Column<UsageLine>[] = [
    {
      key: 'name',
      title: t(`usage.by_${by}`),
      width: '16%',
      cell: (line) => nameOf(line, by) || '–',
    },
    {
      key: 'bar',
      title: t('usage.bar'),
      cell: (line) => <Share line={line} idle={idle?.get(nameOf(line, by)) ?? null} most={most} />,
    },
    {
      key: 'held',
      title: t('usage.held'),
      number: true,
      width: '104px',
      cell: (l) => hours(l.held_gpu_h),
    },
    {
      key: 'util',
      title: t('col.util'),
      number: true,
      width: '72px',
      cell: (line) => (line.util_pct === null ? '–' : `${figure(Math.round(line.util_pct))}%`),
    },
  ];
  if (idle) {
    found.push({
      key: 'idle',
      title: t('usage.idle'),
      number: true,
      width: '100px',
      cell: (line) => {
        const one = idle.get(nameOf(line, by));
        return one ? hours(one.idle_gpu_h) : '–';
      },
    });
  }
  found.push(
    {
      key: 'wasted',
      title: t('usage.wasted'),
      number: true,
      width: '112px',
      cell: (line) => hours(line.wasted_gpu_h),
    },
    {
      key: 'waited',
      title: t('usage.waited'),
      number: true,
      width: '104px',
      cell: (line) => hours(line.waited_gpu_h),
    },
    {
      key: 'p90',
      title: t('usage.p90'),
      number: true,
      width: '96px',
      cell: (line) => (line.waits.count ? duration(line.waits.p90_ms) : '–'),
    },
    {
      key: 'jobs',
      title: t('col.jobs'),
      number: true,
      width: '72px',
      cell: (l) => count(l.submitted),
    },
  );
  return found;
}

/** Held, as one bar: what was used of it, what lay idle, what nobody measured. */
function Share(props: { line: UsageLine; idle: IdleProject | null; most: number }) {
  const { line, idle, most } = props;
  const width = (value: number): string => `${(Math.max(0, value) / most) * 100}%`;
  const idleHours = Math.min(idle?.idle_gpu_h ?? 0, line.measured_gpu_h - line.used_gpu_h);
  const words = t('usage.barWords', {
    used: hours(line.used_gpu_h),
    idle: hours(Math.max(0, idleHours)),
    held: hours(line.held_gpu_h),
  });
  return (
    <span class="share-bar" role="img" aria-label={words} title={words}>
      <i class="usage-used" style={{ width: width(line.used_gpu_h) }} />
      <i
        class="share-rest"
        style={{ width: width(line.measured_gpu_h - line.used_gpu_h - idleHours) }}
      />
      <i class="share-idle" style={{ width: width(idleHours) }} />
      <i class="share-unknown" style={{ width: width(line.held_gpu_h - line.measured_gpu_h) }} />
    </span>
  );
}
