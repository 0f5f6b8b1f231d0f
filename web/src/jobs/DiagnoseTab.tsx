// Is it slow, since when, which node: one metric of every GPU, those that behave alike side by side;
// what the job reported at the same time; and two metrics against each other, one dot a GPU.
// It shows; it does not judge.

import { useMemo } from 'preact/hooks';

import type { JobView } from '../api/types';
import { clock, figure } from '../format';
import { t } from '../i18n';
import { query, setQuery } from '../router';
import { Segmented } from '../ui/parts';
import { Scale, sentenceOf, TimeChoice, ViewChoice } from './GpuMetrics';
import { ORDERS, type Order } from './heat';
import { cursor, HeatStrip } from './HeatStrip';
import { HeatTable } from './HeatTable';
import { useReports } from './MetricsTab';
import { metricText } from './quantity';
import { ReportLine } from './ReportLine';
import { Scatter } from './Scatter';
import type { Span } from './span';
import { TimeAxis } from './TimeAxis';
import { useHeat, useMetricNames, useSpan, useTimeKeys, type Feed } from './useHeat';

const METRICS = [
  'gpu_util_percent',
  'gpu_sm_clock_mhz',
  'gpu_temperature_c',
  'gpu_power_w',
  'gpu_nvlink_rx_bytes',
] as const;
const OTHER = 'gpu_sm_clock_mhz';
const HEIGHT = 480;
const GUTTER = 148;
const SLOW = /step_?time|seconds_per_step|s_per_step|it_?time/i;
const RATE = /per_s|throughput|tokens|samples/i;
const FIRST = [0];

const asked = (name: string, fallback: string): string => {
  const text = query.value.get(name);
  return text && /^[a-z0-9_]+$/.test(text) ? text : fallback;
};

export function DiagnoseTab({ job }: { job: JobView }) {
  const span = useSpan(job);
  useTimeKeys(job);
  const metric = asked('metric', METRICS[0]);
  const against = asked('x', metric === OTHER ? METRICS[0] : OTHER);
  const order: Order = ORDERS.find((one) => one === query.value.get('order')) ?? 'likeness';
  const table = query.value.get('view') === 'table';
  const main = useHeat(job, metric, span, 'mean');
  const other = useHeat(job, against, span, 'mean');
  return (
    <>
      <Toolbar metric={metric} order={order} span={span} table={table} />
      <div class="diagnose">
        <div class="diagnose-main">
          {main.heat && main.heat.lines.length > 0 && (
            <div class="strip-head">
              <p class="strip-sentence">{sentenceOf(main.heat)}</p>
              <span class="grow" />
              <Scale heat={main.heat} />
            </div>
          )}
          <Main feed={main} other={other} metric={metric} order={order} span={span} table={table} />
          <Reported job={job} span={span} />
          <TimeAxis fromMs={span.fromMs} toMs={span.toMs} gutter={GUTTER} />
        </div>
        <aside class="diagnose-side" aria-label={t('diagnose.scatter')}>
          <ScatterChoice metric={metric} against={against} />
          {main.heat && other.heat && <Scatter x={other.heat} y={main.heat} />}
          {other.problem && (
            <p class="quiet" lang="en">
              {other.problem}
            </p>
          )}
          <p class="quiet">{t('diagnose.how')}</p>
        </aside>
      </div>
    </>
  );
}

interface ToolbarProps {
  metric: string;
  order: Order;
  span: Span;
  table: boolean;
}

function Toolbar({ metric, order, span, table }: ToolbarProps) {
  const names = useMetricNames();
  const offered = names.filter((one) => one.subject === 'gpu').map((one) => one.name);
  const usual: string[] = METRICS.filter((one) => !offered.length || offered.includes(one));
  const shown = usual.includes(metric) ? usual : [...usual, metric];
  return (
    <div class="toolbar plain">
      <Segmented
        label={t('diagnose.metric')}
        value={metric}
        options={shown.map((value) => ({ value, text: metricText(value).text }))}
        choose={(next) => setQuery({ metric: next === METRICS[0] ? null : next })}
      />
      <Segmented
        label={t('diagnose.order')}
        value={order}
        options={ORDERS.map((value) => ({ value, text: t(`diagnose.${value}`) }))}
        choose={(next) => setQuery({ order: next === 'likeness' ? null : next })}
      />
      <TimeChoice span={span} />
      <span class="grow" />
      <ViewChoice table={table} />
    </div>
  );
}

interface MainProps {
  feed: Feed;
  other: Feed;
  metric: string;
  order: Order;
  span: Span;
  table: boolean;
}

function Main({ feed, other, metric, order, span, table }: MainProps) {
  const { heat, problem } = feed;
  const both = useMemo(() => [heat, other.heat].filter((one) => one !== null), [heat, other.heat]);
  if (problem)
    return (
      <p class="quiet" lang="en">
        {problem}
      </p>
    );
  if (!heat) return <div class="heat-wait" style={{ height: '320px' }} aria-busy="true" />;
  if (!heat.lines.length || !heat.times.length) return <p class="quiet">{t('heat.none')}</p>;
  const title = metricText(metric).text;
  if (table) return <HeatTable heats={both} label={title} />;
  return (
    <HeatStrip
      title={title}
      heat={heat}
      order={order}
      height={HEIGHT}
      span={span}
      gutter={GUTTER}
    />
  );
}

/** The number that the job itself reported: its time a step, if it tells, else its rate. */
function Reported({ job, span }: { job: JobView; span: Span }) {
  const feed = useReports(job, FIRST);
  const series = feed.series.get(0);
  const keys = useMemo(() => series?.keys() ?? [], [feed]);
  const wanted = asked('report', '');
  const name =
    keys.find((key) => key === wanted) ??
    keys.find((key) => SLOW.test(key)) ??
    keys.find((key) => RATE.test(key)) ??
    keys[0];
  const points = useMemo(
    () => (name ? series?.points(name, 'time') : null) ?? { x: [], y: [] },
    [feed, name],
  );
  if (!name) return <p class="quiet">{t('diagnose.noReports')}</p>;
  const at = cursor.value?.atMs ?? null;
  return (
    <div class="reported">
      <div class="reported-name" style={{ width: `${GUTTER}px` }}>
        <select
          aria-label={t('diagnose.reported')}
          value={name}
          onChange={(event) => setQuery({ report: event.currentTarget.value })}
        >
          {keys.map((key) => (
            <option key={key}>{key}</option>
          ))}
        </select>
        <small>{at === null ? t('diagnose.reported') : readingAt(points, at / 1000, span)}</small>
      </div>
      <ReportLine points={points} span={span} title={name} />
    </div>
  );
}

function readingAt(points: { x: number[]; y: number[] }, atS: number, span: Span): string {
  let best = -1;
  points.x.forEach((x, i) => {
    if (best < 0 || Math.abs(x - atS) < Math.abs(points.x[best]! - atS)) best = i;
  });
  // Of another time than the one shown it would say nothing.
  if (best < 0 || points.x[best]! * 1000 < span.fromMs || points.x[best]! * 1000 > span.toMs)
    return '–';
  return `${figure(points.y[best]!)}, ${clock(points.x[best]! * 1000, span.toMs)}`;
}

function ScatterChoice({ metric, against }: { metric: string; against: string }) {
  const names = useMetricNames();
  const offered = names.filter((one) => one.subject === 'gpu').map((one) => one.name);
  const shown = [...new Set([...(offered.length ? offered : METRICS), against])];
  return (
    <div class="section-head">
      <h2>{t('diagnose.against', { metric: metricText(metric).text })}</h2>
      <label class="select">
        <span class="hidden">{t('diagnose.other')}</span>
        <select value={against} onChange={(event) => setQuery({ x: event.currentTarget.value })}>
          {shown
            .filter((one) => one !== metric)
            .map((one) => (
              <option key={one} value={one}>
                {metricText(one).text}
              </option>
            ))}
        </select>
      </label>
    </div>
  );
}
