// What the devices of a job did: a heat strip for each chosen metric, never a line for each GPU.

import { useMemo, useState } from 'preact/hooks';

import { seriesPath, type Heat, type MetricName, type Quantiles } from '../api/series';
import type { JobView } from '../api/types';
import { figure } from '../format';
import { t } from '../i18n';
import { query, setQuery } from '../router';
import { Icon } from '../ui/Icon';
import { InSight } from '../ui/InSight';
import { Segmented } from '../ui/parts';
import { HeatStrip, lineText } from './HeatStrip';
import { HeatTable } from './HeatTable';
import { rowMeans, scaleOf, summaryOf } from './heat';
import { metricText, quantity } from './quantity';
import { LASTS, type Span } from './span';
import { TimeAxis } from './TimeAxis';
import { attemptOf, useHeat, useMetricNames, useSpan, useTimeKeys } from './useHeat';

const FIRST = [
  'gpu_util_percent',
  'gpu_memory_used_percent',
  'gpu_power_w',
  'gpu_temperature_c',
] as const;
const STRIP_HEIGHT = 132;
const HOWS = ['mean', 'min', 'max'] as const;
type How = (typeof HOWS)[number];

const howOf = (): How => HOWS.find((one) => one === query.value.get('how')) ?? 'mean';

export function chosenMetrics(): string[] {
  const asked = (query.value.get('metrics') ?? '')
    .split(',')
    .filter((one) => /^[a-z0-9_]+$/.test(one));
  return asked.length ? [...new Set(asked)] : [...FIRST];
}

export function GpuMetrics({ job }: { job: JobView }) {
  const span = useSpan(job);
  useTimeKeys(job);
  const names = useMetricNames();
  const chosen = chosenMetrics();
  const table = query.value.get('view') === 'table';
  const keep = (next: readonly string[]): void =>
    setQuery({ metrics: next.join() === FIRST.join() ? null : next.join(',') });
  return (
    <section class="gpu-metrics" aria-label={t('heat.devices')}>
      <div class="toolbar plain">
        <TimeChoice span={span} />
        <Segmented
          label={t('heat.how')}
          value={howOf()}
          options={HOWS.map((value) => ({ value, text: t(`heat.${value}`) }))}
          choose={(how) => setQuery({ how: how === 'mean' ? null : how })}
        />
        <span class="grow" />
        <ViewChoice table={table} />
      </div>
      {chosen.map((metric) => (
        <InSight key={metric} height={STRIP_HEIGHT + 74}>
          <Strip
            job={job}
            metric={metric}
            span={span}
            table={table}
            names={names}
            drop={chosen.length > 1 ? () => keep(chosen.filter((one) => one !== metric)) : null}
          />
        </InSight>
      ))}
      <AddMetric names={names} chosen={chosen} add={(metric) => keep([...chosen, metric])} />
    </section>
  );
}

export function TimeChoice({ span }: { span: Span }) {
  const stands = query.value.has('from');
  return (
    <Segmented
      label={t('heat.last')}
      value={stands ? ('' as (typeof LASTS)[number]) : span.last}
      options={LASTS.map((value) => ({ value, text: t(`span.${value}`) }))}
      choose={(last) => setQuery({ last, from: null, to: null })}
    />
  );
}

export function ViewChoice({ table }: { table: boolean }) {
  return (
    <Segmented
      label={t('fleet.view')}
      bare
      value={table ? 'table' : 'strips'}
      options={[
        { value: 'strips', text: t('heat.strips') },
        { value: 'table', text: t('fleet.table') },
      ]}
      choose={(next) => setQuery({ view: next === 'table' ? 'table' : null })}
    />
  );
}

interface StripProps {
  job: JobView;
  metric: string;
  span: Span;
  table: boolean;
  names: readonly MetricName[];
  drop: (() => void) | null;
}

function Strip({ job, metric, span, table, names, drop }: StripProps) {
  const how = howOf();
  const { heat, problem } = useHeat(job, metric, span, how);
  const name = metricText(metric);
  const about = names.find((one) => one.name === metric)?.text;
  const ask = { job: job.id, attempt: attemptOf(job), metric, how, ...span };
  return (
    <article class="strip" aria-busy={!heat && !problem}>
      <header class="strip-head">
        <h2 title={about} class={name.ours ? '' : 'mono'}>
          {name.text}
        </h2>
        <span class="grow" />
        {heat && <Scale heat={heat} />}
        <a
          class="icon-button"
          href={`/v1${seriesPath(ask, 'csv')}`}
          download={`${job.id}-${metric}.csv`}
          aria-label={t('heat.csv', { metric: name.text })}
          title={t('heat.csv', { metric: name.text })}
        >
          <Icon name="down" size={14} />
        </a>
        {drop && (
          <button
            type="button"
            class="icon-button"
            onClick={drop}
            aria-label={t('heat.drop', { metric: name.text })}
            title={t('heat.drop', { metric: name.text })}
          >
            <Icon name="close" size={14} />
          </button>
        )}
      </header>
      {heat && <Sentence heat={heat} />}
      <Body heat={heat} problem={problem} title={name.text} table={table} span={span} />
      {heat?.since && heat.since.count > 0 && <Since quantiles={heat.since} unit={heat.unit} />}
    </article>
  );
}

function Body(props: {
  heat: Heat | null;
  problem: string;
  title: string;
  table: boolean;
  span: Span;
}) {
  const { heat, problem, title, table, span } = props;
  if (problem)
    return (
      <p class="quiet" lang="en">
        {problem}
      </p>
    );
  if (!heat) return <div class="heat-wait" style={{ height: `${STRIP_HEIGHT}px` }} />;
  if (!heat.lines.length || !heat.times.length) return <p class="quiet">{t('heat.none')}</p>;
  if (table) return <HeatTable heats={[heat]} label={title} />;
  return (
    <>
      <HeatStrip title={title} heat={heat} order="rank" height={STRIP_HEIGHT} span={span} />
      <TimeAxis fromMs={span.fromMs} toMs={span.toMs} />
    </>
  );
}

/** What the strip says, in one line. */
export function Sentence({ heat }: { heat: Heat }) {
  const text = useMemo(() => sentenceOf(heat), [heat]);
  return <p class="strip-sentence">{text}</p>;
}

export function sentenceOf(heat: Heat): string {
  const { mean, p5, p95, lowest, highest } = summaryOf(heat);
  if (Number.isNaN(mean)) return t('heat.none');
  const q = (value: number): string => quantity(value, heat.unit);
  const main = t('heat.sentence', { mean: q(mean), low: q(p5), high: q(p95) });
  if (heat.lines.length < 2) return main;
  const means = rowMeans(heat);
  // Named is the end that is farther off: for temperatures the hottest, for work the laziest.
  const low = mean - means[lowest]!;
  const high = means[highest]! - mean;
  const [key, row] =
    high > low ? (['heat.highest', highest] as const) : (['heat.lowest', lowest] as const);
  return `${main} ${t(key, { line: lineText(heat.lines[row]!), value: q(means[row]!) })}`;
}

export function Scale({ heat }: { heat: Heat }) {
  const { low, high } = useMemo(() => scaleOf(heat), [heat]);
  return (
    <div class="scale" aria-hidden="true">
      {quantity(low, heat.unit)}
      <i />
      {quantity(high, heat.unit)}
    </div>
  );
}

const SHOWN = ['p5', 'p25', 'p50', 'p75', 'p95'] as const;

function Since({ quantiles, unit }: { quantiles: Quantiles; unit: string }) {
  return (
    <dl class="since">
      <dt>{t('heat.since', { n: figure(quantiles.count) })}</dt>
      {SHOWN.map((name) => (
        <dd key={name}>
          <span>{name}</span> {quantity(quantiles[name] ?? NaN, unit)}
        </dd>
      ))}
    </dl>
  );
}

function AddMetric(props: {
  names: readonly MetricName[];
  chosen: readonly string[];
  add: (metric: string) => void;
}) {
  const [shown, setShown] = useState(0);
  const left = props.names.filter(
    (one) => one.subject !== 'node' && !props.chosen.includes(one.name),
  );
  if (!left.length) return null;
  return (
    <label class="select">
      {t('heat.add')}
      <select
        key={shown}
        onChange={(event) => {
          if (event.currentTarget.value) props.add(event.currentTarget.value);
          setShown(shown + 1);
        }}
      >
        <option value="">…</option>
        {left.map((one) => (
          <option key={one.name} value={one.name}>
            {metricText(one.name).text}
          </option>
        ))}
      </select>
    </label>
  );
}

const GLANCE_HEIGHT = 84;

/** How busy its devices have been, for the overview; nothing where no sensor speaks. */
export function Glance({ job }: { job: JobView }) {
  const span = useSpan(job);
  const { heat } = useHeat(job, FIRST[0], span, 'mean');
  if (!heat?.lines.length || !heat.times.length) return null;
  const title = metricText(FIRST[0]).text;
  return (
    <article class="strip">
      <header class="strip-head">
        <h2>{title}</h2>
        <span class="grow" />
        <Scale heat={heat} />
        <a class="quiet-link" href={`/jobs/${encodeURIComponent(job.id)}/diagnose`}>
          {t('job.diagnose')}
        </a>
      </header>
      <Sentence heat={heat} />
      <HeatStrip title={title} heat={heat} order="rank" height={GLANCE_HEIGHT} span={span} />
      <TimeAxis fromMs={span.fromMs} toMs={span.toMs} />
    </article>
  );
}
