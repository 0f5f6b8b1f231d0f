// The legend is the histogram is the filter: one bar of states, each with its pattern and count.

import { t } from '../i18n';
import { setQuery } from '../router';
import { Segmented } from '../ui/parts';
import { SCALE } from './paint';
import { toggled, type ColorBy, type Spec } from './spec';
import { hasSensor, knownJobs, states } from './state';
import { STATES, type State } from './units';

export function Swatch({ state }: { state: State }) {
  return <i class={`swatch swatch-${state}`} aria-hidden="true" />;
}

export function StateBar({ where, view }: { where: string; view: Spec['view'] }) {
  const counts = states.value;
  // Always shown: what a healthy fleet has. The rest appears when it exists.
  const shown = STATES.filter(
    (state) => counts[state] > 0 || state === 'running' || state === 'free' || state === 'faulty',
  );
  const chosen = new Set(where.split(/\s+/));
  const any = STATES.some((state) => chosen.has(`state:${state}`));
  const choose = (state: State): void => setQuery({ where: toggled(where, `state:${state}`) });
  return (
    <div class={`states ${any ? 'filtered' : ''}`} role="group" aria-label={t('state.bar')}>
      <div class="states-bar" aria-hidden="true">
        {shown
          .filter((state) => counts[state] > 0)
          .map((state) => (
            <span
              key={state}
              class={`swatch-${state} ${chosen.has(`state:${state}`) ? 'chosen' : ''}`}
              style={{ flexGrow: counts[state] }}
              title={`${t(`state.${state}`)} ${counts[state]}`}
              onClick={() => choose(state)}
            />
          ))}
      </div>
      <div class="states-list">
        {shown.map((state) => (
          <button
            key={state}
            type="button"
            aria-pressed={chosen.has(`state:${state}`)}
            onClick={() => choose(state)}
          >
            <Swatch state={state} />
            {t(`state.${state}`)}
            <b class={counts[state] ? '' : 'none'}>{counts[state].toLocaleString()}</b>
          </button>
        ))}
        <span class="grow" />
        <Segmented
          label={t('fleet.view')}
          bare
          value={view}
          options={[
            { value: 'map', text: t('fleet.map') },
            { value: 'table', text: t('fleet.table') },
          ]}
          choose={(next) => setQuery({ view: next === 'map' ? null : next })}
        />
      </div>
    </div>
  );
}

export function Legend({ color }: { color: ColorBy }) {
  if (color === 'project') return null;
  if (!hasSensor.value[color]) {
    return knownJobs.value.size && color === 'util' ? (
      <span class="legend-none">{t('color.noSensor')}</span>
    ) : null;
  }
  const { low, high, unit } = SCALE[color];
  const gap = unit === '%' ? '' : ' ';
  return (
    <div class="legend" aria-hidden="true">
      {low}
      {gap}
      {unit}
      <i />
      {high}
      {gap}
      {unit}
    </div>
  );
}
