export default function JobsPage(_: { id?: string; tab?: string }) {
  return <main id="content" class="content" />;
}
