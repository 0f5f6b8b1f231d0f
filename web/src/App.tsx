// The frame round every page: rail, top bar, and the page that the URL names.

import { live } from './api/live';
import { liveSocket, newest } from './api/liveSocket';
import { connection, jobs, loggedOut, nodes, overview } from './api/store';
import { FleetPage } from './fleet/FleetPage';
import { paused, replayed } from './fleet/moment';
import { units as fleetUnits } from './fleet/state';
import { language, t, type Key } from './i18n';
import { helpOpen, KEYS } from './keys';
import { route } from './router';
import { Search } from './Search';
import { Icon, type IconName } from './ui/Icon';
import { Command, Dialog, Empty } from './ui/parts';
import { lazyPage } from './ui/lazyPage';
import { store } from './ui/stored';
import { nextTheme, shown, theme } from './ui/theme';

const JobPage = lazyPage(() => import('./jobs/JobPage'));
const JobsPage = lazyPage(() => import('./jobs/JobsPage'));
const QueuePage = lazyPage(() => import('./queue/QueuePage'));
const UsagePage = lazyPage(() => import('./usage/UsagePage'));

export function App() {
  document.documentElement.lang = language.value;
  return (
    <div class="shell">
      <a class="skip" href="#content">
        {t('skip.content')}
      </a>
      <Rail />
      <Top />
      {loggedOut.value ? <Login /> : <Page />}
      {helpOpen.value && <Help />}
    </div>
  );
}

function Page() {
  const at = route.value;
  if (!nodes.value && connection.value === 'off') return <Unreachable />;
  switch (at.page) {
    case 'fleet':
      return <FleetPage />;
    case 'job':
      return <JobPage key={at.id} id={at.id} tab={at.tab} />;
    case 'jobs':
      return <JobsPage />;
    case 'queue':
      return <QueuePage />;
    case 'usage':
      return <UsagePage />;
    case 'none':
      return (
        <main id="content" class="content center">
          <Empty title={t('error.page')}>
            <a class="button" href="/">
              {t('error.home')}
            </a>
          </Empty>
        </main>
      );
  }
}

const PLACES: readonly { page: string; href: string; icon: IconName; key: Key }[] = [
  { page: 'fleet', href: '/', icon: 'fleet', key: 'nav.fleet' },
  { page: 'jobs', href: '/jobs', icon: 'jobs', key: 'nav.jobs' },
  { page: 'queue', href: '/queue', icon: 'queue', key: 'nav.queue' },
  { page: 'usage', href: '/usage', icon: 'usage', key: 'nav.usage' },
];

function Rail() {
  const at = route.value.page === 'job' ? 'jobs' : route.value.page;
  const waitingCount = [...(jobs.value?.values() ?? [])].filter(
    (job) => job.phase === 'waiting',
  ).length;
  const other = language.value === 'en' ? 'ko' : 'en';
  const themeName = t(`theme.${theme.value}`);
  return (
    <nav class="rail" aria-label={t('app.name')}>
      <a class="mark" href="/" aria-label={t('app.name')}>
        <Mark />
      </a>
      {PLACES.map(({ page, href, icon, key }) => (
        <a
          key={page}
          class="rail-item"
          href={href}
          {...(page === at ? { 'aria-current': 'page' as const } : {})}
        >
          <Icon name={icon} size={18} />
          {t(key as 'nav.fleet')}
          {page === 'queue' && waitingCount > 0 && <b class="badge">{badge(waitingCount)}</b>}
        </a>
      ))}
      <span class="grow" />
      <button
        type="button"
        class="rail-item small"
        onClick={() => {
          language.value = other;
          store('language', other);
        }}
        aria-label={t('nav.language')}
        lang={other}
      >
        {other === 'ko' ? '한국어' : 'English'}
      </button>
      <button
        type="button"
        class="rail-item small"
        onClick={nextTheme}
        aria-label={t('nav.theme', { name: themeName })}
        title={t('nav.theme', { name: themeName })}
      >
        <Icon name={theme.value === 'system' ? 'system' : shown.value} size={18} />
      </button>
      <button
        type="button"
        class="rail-item small"
        onClick={() => (helpOpen.value = true)}
        aria-label={t('nav.help')}
        title={`${t('nav.help')} (?)`}
      >
        <Icon name="help" size={18} />
      </button>
    </nav>
  );
}

const badge = (count: number): string => (count > 99 ? '99+' : String(count));

/** The yard, seen from above: houses round an open place, one with its light on. */
function Mark() {
  const cells = ['0,0,a', '1,0,b', '2,0,a', '0,1,b', '2,1,b', '0,2,a', '1,2,c', '2,2,a'];
  return (
    <svg width="26" height="26" viewBox="0 0 24 24" aria-hidden="true">
      {cells.map((cell) => {
        const [x, y, tone] = cell.split(',');
        return (
          <rect
            key={cell}
            class={`mark-${tone ?? ''}`}
            x={1 + Number(x) * 8}
            y={1 + Number(y) * 8}
            width="6"
            height="6"
            rx="1.4"
          />
        );
      })}
    </svg>
  );
}

function Top() {
  const now = overview.value;
  const count = now?.gpus.total ?? 0;
  const slots = fleetUnits.value.isSlots;
  const units = t(slots ? 'unit.slots' : 'unit.gpus', { n: count });
  return (
    <header class="top">
      <div class="top-name">
        <b>{now ? now.cluster || t('app.name') : t('app.name')}</b>
        {now && <span>{t('fleet.size', { units, nodes: now.nodes })}</span>}
      </div>
      <Search />
      <LiveMark />
    </header>
  );
}

function LiveMark() {
  const past = replayed.value ? 'past' : paused.value ? 'held' : null;
  const at = connection.value;
  return (
    <div
      class={`live live-${at === 'on' && past ? 'paused' : at}`}
      role="status"
      data-tick={newest.value?.tick}
      data-skipped={liveSocket.skipped}
    >
      <i />
      {t(`live.${at === 'on' && past ? past : at}`)}
    </div>
  );
}

function Login() {
  return (
    <main id="content" class="content center">
      <Empty title={t('login.title')}>
        <p>{t('login.text')}</p>
        <Command text="madang web" />
        <p class="quiet">{t('login.then')}</p>
        <button type="button" class="button" onClick={() => void live.open()}>
          {t('login.retry')}
        </button>
      </Empty>
    </main>
  );
}

function Unreachable() {
  return (
    <main id="content" class="content center">
      <Empty title={t('error.unreachable')}>
        <p>{t('error.unreachableText')}</p>
        <Command text="madang up" />
      </Empty>
    </main>
  );
}

function Help() {
  return (
    <Dialog title={t('help.title')} close={() => (helpOpen.value = false)} className="help">
      <div class="help-columns">
        {KEYS.map(({ title, keys }) => (
          <section key={title}>
            <h3>{t(title as 'help.title')}</h3>
            <dl class="keys">
              {keys.map(([chords, text]) => (
                <div key={text}>
                  <dt>
                    {chords.split(' · ').map((chord) => (
                      <kbd key={chord}>{chord}</kbd>
                    ))}
                  </dt>
                  <dd>{t(text as 'help.title')}</dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
    </Dialog>
  );
}
